"""Scores of edits from files into a file, line by line: what is in it is done, so a stopped run goes on.

A line of the output is an edit with its score, or with the error that it met; errors are tried again by the next run.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from absl import logging
from tqdm import tqdm

from rewardedit_jax.scoring.edit_score import EditScore
from rewardedit_jax.scoring.packing import ScorerItem
from rewardedit_jax.scoring.scorer import Scorer

_AHEAD = 128  # edits read before they are needed: a megabyte each
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
      source: an image, whose edits are `edited`; or a folder, and `edited` another with the edits under the same names.
    Raises:
      ValueError: no instruction, no images, or edits without a source of their name.
    """
    if not instruction:
        raise ValueError("say what was asked for with --instruction.")
    if not source.is_dir():
        return [ScoreJob(str(source), str(one), instruction) for one in edited]
    if len(edited) != 1 or not edited[0].is_dir():
        raise ValueError(f"{source} is a folder: let --edited be one too, with the edits under the sources' names.")
    names = sorted(p.name for p in edited[0].iterdir() if p.suffix.lower() in _IMAGES)
    if missing := [name for name in names if not (source / name).is_file()]:
        raise ValueError(f"{len(missing)} of {len(names)} edits have no source in {source}: {', '.join(missing[:5])}.")
    if not names:
        raise ValueError(f"there are no images in {edited[0]} (endings {', '.join(_IMAGES)}).")
    return [ScoreJob(str(source / name), str(edited[0] / name), instruction) for name in names]


def listed_jobs(listing: Path, instruction: str | None) -> list[ScoreJob]:
    """The edits of a .jsonl: {"source": path, "edited": path or list of paths, "instruction": text} a line.

    Paths are relative to the list; `instruction` stands in where a line has none.

    Raises:
      ValueError: naming the line that is no such object.
    """
    lines = [(n, line) for n, line in enumerate(listing.read_text("utf-8").split("\n"), 1) if line.strip()]
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
    yield from (ScoreJob(*pair, told) for pair in paths)


def outcomes(scorer: Scorer, jobs: Sequence[ScoreJob], **settings: Any) -> Iterator[tuple[ScoreJob, EditScore | str]]:
    """For every edit its score, or the sentence that says why there is none; with a progress bar.

    Args:
      settings: of `Scorer.stream`.
    """
    readable, faulty = deque[ScoreJob](), deque[tuple[ScoreJob, str]]()

    def items() -> Iterator[ScorerItem]:
        for job, item in _prepared(scorer, jobs):
            if isinstance(item, str):
                faulty.append((job, item))
            else:
                readable.append(job)
                yield item

    def told() -> Iterator[tuple[ScoreJob, EditScore | str]]:
        for score in scorer.stream(items(), **settings):
            yield readable.popleft(), score
            while faulty:
                yield faulty.popleft()
        yield from faulty

    yield from tqdm(told(), total=len(jobs), unit="edit", disable=len(jobs) < 2)


def _prepared(scorer: Scorer, jobs: Iterable[ScoreJob]) -> Iterator[tuple[ScoreJob, ScorerItem | str]]:
    """Edits in their order, read by threads while the device scores those before."""

    def prepare(job: ScoreJob) -> ScorerItem | str:
        try:
            return scorer.prepare(job.source, job.edited, job.instruction)
        except ValueError as error:
            return str(error)

    waiting = deque[tuple[ScoreJob, Future[ScorerItem | str]]]()
    pool = ThreadPoolExecutor()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(prepare, job)))
            if len(waiting) > _AHEAD:
                first, item = waiting.popleft()
                yield first, item.result()
        yield from ((job, item.result()) for job, item in waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def run_jobs(scorer: Scorer, jobs: Sequence[ScoreJob], output: Path, **settings: Any) -> list[str]:
    """Scores what `output` (.jsonl) does not have yet.

    Args:
      settings: of `Scorer.stream`.
    Returns:
      A sentence for each edit that could not be scored; the others are scored all the same.
    """
    done = _done(output)
    due = [job for job in jobs if job not in done]
    if len(due) < len(jobs):
        logging.info("%d of %d edits are scored already.", len(jobs) - len(due), len(jobs))
    faults: list[str] = []
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a", encoding="utf-8") as file:
        for job, outcome in outcomes(scorer, due, **settings):
            _write(file, to_json(job, outcome))
            if isinstance(outcome, str):
                faults.append(f"{job.edited}: {outcome}")
    return faults


def to_json(job: ScoreJob, outcome: EditScore | str) -> dict[str, Any]:
    """An edit and its score, or its error."""
    return {**asdict(job), **({"error": outcome} if isinstance(outcome, str) else outcome.to_json())}


def _write(file: TextIO, told: dict[str, Any]) -> None:
    file.write(json.dumps(told, ensure_ascii=False) + "\n")
    file.flush()


def _done(output: Path) -> set[ScoreJob]:
    """The edits that have a score there. What a run that was cut off left half written is taken away."""
    if not output.is_file():
        return set()
    text = output.read_text("utf-8")
    lines, half = text.split("\n")[:-1], text.rpartition("\n")[2]
    entries = [json.loads(line) for line in lines]
    scored = [entry for entry in entries if "error" not in entry]
    if half or len(scored) < len(entries):
        logging.info("%s: %d edits are tried again.", output, len(entries) - len(scored) + bool(half))
        kept = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in scored)
        unfinished = output.with_name(f".{output.name}.part")
        unfinished.write_text(kept, "utf-8")
        unfinished.replace(output)
    return {ScoreJob(entry["source"], entry["edited"], entry["instruction"]) for entry in scored}
