"""Scores of edits from files into a file, line by line: what is in it is done, so a stopped run goes on.

A line of the output is an edit with its score, or with the error that it met; errors are tried again by the next run.
It names the scorer (`Scorer.fingerprint`), so that scores of two are not mixed.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from rewardedit_jax.data.json_lines import numbered_lines
from rewardedit_jax.scoring.batching import AT_A_TIME
from rewardedit_jax.scoring.edit_score import EditScore, Unscorable
from rewardedit_jax.scoring.packing import ScorerItem
from rewardedit_jax.scoring.reading import read_ahead
from rewardedit_jax.scoring.scorer import Scorer

# A file name that is no UTF-8 holds lone surrogates, for which JSON has these very escapes.
_ENCODING = {"encoding": "utf-8", "errors": "backslashreplace"}
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class ScoreJob:
    """One edit to be scored."""

    source: str
    edited: str
    instruction: str


def plan_jobs(source: Path, edited: Sequence[Path], instruction: str | None) -> list[ScoreJob]:
    """The edits of a command line.

    Args:
      source: an image, whose edits are `edited`, images or folders of them; or a folder, and `edited` another with the
        edits under the sources' names, whatever the endings.
    Raises:
      ValueError: no instruction, no images, or edits without a source of their name, or with several.
    """
    if not instruction:
        raise ValueError("say what was asked for with --instruction.")
    if not source.is_dir():
        files = [file for one in edited for file in (_images(one) if one.is_dir() else [one])]
        return [ScoreJob(str(source), str(file), instruction) for file in files]
    if len(edited) != 1 or not edited[0].is_dir():
        raise ValueError(f"{source} is a folder: let --edited be one too, with the edits under the sources' names.")
    edits, sources = _images(edited[0]), defaultdict[str, list[Path]](list)
    for file in _images(source):
        sources[file.stem].append(file)
    if missing := [file.name for file in edits if file.stem not in sources]:
        raise ValueError(f"{len(missing)} of {len(edits)} edits have no source in {source}: {', '.join(missing[:5])}.")
    if rest := sources.keys() - {file.stem for file in edits}:
        logging.info("%d of %d sources have no edit in %s.", len(rest), len(sources), edited[0])
    return [ScoreJob(str(_source_of(file, sources)), str(file), instruction) for file in edits]


def _images(folder: Path) -> list[Path]:
    if not (files := sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES)):
        raise ValueError(f"there are no images in {folder} (endings {', '.join(_IMAGES)}).")
    return files


def _source_of(edited: Path, by_stem: Mapping[str, Sequence[Path]]) -> Path:
    """The source of the same name, else the one that only ends otherwise."""
    found = by_stem[edited.stem]
    same = [file for file in found if file.name == edited.name]
    if not same and len(found) > 1:
        raise ValueError(f"{edited} may be an edit of {' or of '.join(map(str, found))}: name it like one of them.")
    return (same or found)[0]


def listed_jobs(listing: Path, instruction: str | None) -> list[ScoreJob]:
    """The edits of a .jsonl: {"source": path, "edited": path or list of paths, "instruction": text} a line.

    Paths are relative to the list; `instruction` stands in where a line has none.

    Raises:
      ValueError: no line at all, or naming the one that is no such object.
    """
    if not (lines := numbered_lines(listing)):
        raise ValueError(f"{listing} lists no edits.")
    return [job for n, line in lines for job in _of_line(line, f"line {n} of {listing}", listing.parent, instruction)]


def _of_line(line: str, where: str, folder: Path, instruction: str | None) -> Iterator[ScoreJob]:
    try:
        entry = json.loads(line)
        edited = entry["edited"] if isinstance(entry["edited"], list) else [entry["edited"]]
        paths = [(str(folder / entry["source"]), str(folder / one)) for one in edited]
        told = entry.get("instruction") or instruction
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        form = '{"source": "a.png", "edited": "b.png", "instruction": "make it snow"}'
        raise ValueError(f"{where} is no edit such as {form}: {error!r}.") from error
    if not isinstance(told, str):
        raise ValueError(f"{where} has no instruction: write one there or give --instruction.")
    if not paths:
        raise ValueError(f"{where} has no edited image: name one, or take the line out.")
    yield from (ScoreJob(*pair, told) for pair in paths)


def outcomes(
    scorer: Scorer, jobs: Sequence[ScoreJob], *, batch_size: int = 8, improvement: bool = True
) -> Iterator[tuple[ScoreJob, EditScore | Unscorable]]:
    """For every edit, in their order, its score or the sentence that says why there is none; with a progress bar.

    Args:
      batch_size, improvement: as of `Scorer.score`.
    """

    def items() -> Iterator[ScorerItem | Unscorable]:
        for item in read_ahead(scorer.prepare, map(astuple, jobs), batch_size * AT_A_TIME):
            try:
                yield item.result()
            except ValueError as error:
                yield Unscorable(str(error))

    found = scorer.stream(items(), batch_size=batch_size, improvement=improvement)
    for job, outcome in tqdm(zip(jobs, found, strict=True), total=len(jobs), unit="edit", disable=len(jobs) < 2):
        if isinstance(outcome, EditScore) and not np.isfinite(outcome.raw_overall).all():
            outcome = Unscorable(f"the scorer says {outcome.raw_overall}, which is no score.")
        yield job, outcome


def run_jobs(
    scorer: Scorer, jobs: Sequence[ScoreJob], output: Path, *, batch_size: int = 8, improvement: bool = True
) -> list[str]:
    """Scores what `output` (.jsonl) does not have yet; with `improvement`, also what it has without.

    Args:
      batch_size, improvement: as of `Scorer.score`.
    Returns:
      A sentence for each edit that could not be scored; the others are scored all the same.
    Raises:
      ValueError: if `output` has a line that is no score, or scores of another scorer.
    """
    name = scorer.fingerprint
    done = _done(output, name, improvement)
    due = [job for job in jobs if job not in done]
    if len(due) < len(jobs):
        logging.info("%d of %d edits are scored already.", len(jobs) - len(due), len(jobs))
    faults: list[str] = []
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a", **_ENCODING) as file:
        for job, outcome in outcomes(scorer, due, batch_size=batch_size, improvement=improvement):
            file.write(_line({**to_json(job, outcome), "scorer": name}))
            file.flush()
            if isinstance(outcome, Unscorable):
                faults.append(f"{job.edited}: {outcome.reason}")
    return faults


def to_json(job: ScoreJob, outcome: EditScore | Unscorable) -> dict[str, Any]:
    """An edit and its score, or its error."""
    return {**asdict(job), **({"error": outcome.reason} if isinstance(outcome, Unscorable) else outcome.to_json())}


def _line(told: Mapping[str, Any]) -> str:
    return json.dumps(told, ensure_ascii=False) + "\n"


def _done(output: Path, scorer: str, improvement: bool) -> set[ScoreJob]:
    """The edits that need no scoring. Other lines, and what a run that was cut off left half written, are removed."""
    if not output.is_file():
        return set()
    whole, _, half = output.read_bytes().rpartition(b"\n")
    entries = [_entry(line, n, output, scorer) for n, line in enumerate(whole.split(b"\n"), 1) if line.strip()]
    kept = [e for e in entries if "error" not in e and (e["improvement"] is not None or not improvement)]
    if half or len(kept) < len(entries):
        logging.info("%s: %d edits are tried again.", output, len(entries) - len(kept) + bool(half))
        unfinished = output.with_name(f".{output.name}.part")
        unfinished.write_text("".join(map(_line, kept)), **_ENCODING)
        unfinished.replace(output)
    return {ScoreJob(entry["source"], entry["edited"], entry["instruction"]) for entry in kept}


def _entry(line: bytes, number: int, output: Path, scorer: str) -> dict[str, Any]:
    where = f"line {number} of {output}"
    try:
        entry = json.loads(line)
        known = {"source", "edited", "instruction"} <= entry.keys() and ("error" in entry or "improvement" in entry)
    except (ValueError, AttributeError):
        known = False
    if not known:
        raise ValueError(f"{where} is no score of launch/score.py: remove it, or give another --output.")
    if entry.get("scorer") != scorer:
        raise ValueError(
            f"{where} is of another scorer ({entry.get('scorer')}; this one is {scorer}, its precision included): "
            "give another --output."
        )
    return entry
