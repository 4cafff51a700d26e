"""Scores of image files: from the images of a command line or a list into a result file (`data.runs`).

A line of the result file is an edit with its score or its error, and the fingerprint of the scorer.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from absl import logging
from tqdm import tqdm

from rewardedit_jax.command_line import add_allow_outside, add_skip_bad, local_path, not_blank
from rewardedit_jax.data.paths import image_files, inside
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.data.records import Instruction
from rewardedit_jax.data.runs import Failed, ResultFile, Shard, read_list
from rewardedit_jax.listing import list_lines, list_names
from rewardedit_jax.scoring.edit_score import EditScore, Unscorable
from rewardedit_jax.scoring.inference import CHUNK_BATCHES
from rewardedit_jax.scoring.packing import ScorerItem
from rewardedit_jax.scoring.scorer import Scorer

_EXAMPLE = '{"source": "a.png", "edited": "b.png", "instruction": "make it snow"}'


class _Line(msgspec.Struct):
    """A line of a list."""

    source: str
    edited: str | Annotated[list[str], msgspec.Meta(min_length=1)]
    instruction: Instruction | None = None


@dataclass(frozen=True)
class ScoreJob:
    """One edit to be scored. Its fields are the key of its result."""

    source: str
    edited: str
    instruction: str


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of launch/score.py that select edits and result files."""
    parser.add_argument("--source", type=Path, help="an image or a folder")
    parser.add_argument("--edited", type=Path, nargs="+", help="edits of that image, or a folder")
    parser.add_argument("--list", type=Path, help="a .jsonl file instead of --source and --edited")
    parser.add_argument("--instruction", type=not_blank, help="what the edits were asked to change")
    parser.add_argument("--output", type=local_path, help="a .jsonl file, written line by line; a stopped run resumes")
    parser.add_argument("--shard", metavar="I/N", help="score part I of N of the edits; each part has its own --output")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="PART", help="join the shards' outputs in --output")
    add_allow_outside(parser)
    add_skip_bad(parser, "lines or edits that cannot be scored")


def selected_jobs(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[ScoreJob], list[str]]:
    """The parsed command line of launch/score.py, the edits that it selects, and a sentence for each bad one."""
    a = parser.parse_args()
    # argparse has no rules between several arguments.
    if (a.list is None) == (a.source is None or a.edited is None):
        parser.error("give --source and --edited, or --list.")
    if a.output and (a.json or a.png):
        parser.error("--output excludes --json and --png: it is the file of the scores.")
    if not a.output and (a.shard or a.merge):
        parser.error("--shard and --merge need --output.")
    if a.shard and a.merge:
        parser.error("--merge excludes --shard: it writes the scores of all shards.")
    if not (a.model or a.merge):
        parser.error("the following arguments are required: --model")
    if a.list:
        jobs, faults = listed_scores(a.list, a.instruction, a.allow_outside)
    else:
        jobs, faults = plan_scores(a.source, a.edited, a.instruction)
    return a, Shard.parse(a.shard).of(jobs) if a.shard else jobs, faults


def plan_scores(source: Path, edited: Sequence[Path], instruction: str | None) -> tuple[list[ScoreJob], list[str]]:
    """The edits of a command line.

    Args:
      source: an image, and `edited` its edits, images or folders of images; or a folder, and `edited` one folder, whose
        images have the names of their sources, with any suffix. Images without a partner are left out with a warning.
    Returns:
      The edits, and a sentence for each edit that has several sources of its name.
    Raises:
      ValueError: there is no instruction, a folder has no images, or no edit has a source.
    """
    if not (instruction or "").strip():
        raise ValueError("the edits have no instruction: give --instruction.")
    # One source, any number of edits.
    if not source.is_dir():
        files = [file for one in edited for file in (image_files(one) if one.is_dir() else [one])]
        return [ScoreJob(str(source), str(file), instruction) for file in files], []
    if len(edited) != 1 or not edited[0].is_dir():
        raise ValueError(f"--source {source} is a folder: expected --edited to be a folder with images of equal names.")
    return _paired(source, edited[0], instruction)


def _paired(source_folder: Path, edited_folder: Path, instruction: str) -> tuple[list[ScoreJob], list[str]]:
    """Edits and sources of one name, from two folders."""
    # By stem: editors often write PNGs for JPEG sources.
    edits, sources = image_files(edited_folder), image_files(source_folder)
    by_stem = defaultdict[str, list[Path]](list)
    for file in sources:
        by_stem[file.stem].append(file)
    stems = {file.stem for file in edits}
    # Not an error: a run over a part of the sources or the edits is common.
    _warn_unmatched("edits", [file.name for file in edits if file.stem not in by_stem], len(edits), source_folder)
    _warn_unmatched("sources", [file.name for file in sources if file.stem not in stems], len(sources), edited_folder)
    if not stems & by_stem.keys():
        raise ValueError(f"no edit in {edited_folder} has the name of a source in {source_folder}.")
    jobs, faults = [], []
    for file in edits:
        found = by_stem.get(file.stem, [])
        # The source with the same name, else the only one with another suffix.
        same = [source for source in found if source.name == file.name] or found
        if len(same) > 1:
            faults.append(f"{file} has several sources, {', '.join(map(str, found))}: give it the name of one.")
        elif same:
            jobs.append(ScoreJob(str(same[0]), str(file), instruction))
    if not jobs:
        raise ValueError(list_lines("no edit can be scored:", faults))
    return jobs, faults


def _warn_unmatched(what: str, names: Sequence[str], total: int, other_folder: Path) -> None:
    if names:
        message = "%d of %d %s have no partner in %s and are left out: %s"
        logging.warning(message, len(names), total, what, other_folder, list_names(names))


def listed_scores(
    listing: Path, instruction: str | None, allow_outside: bool = False
) -> tuple[list[ScoreJob], list[str]]:
    """The edits of a .jsonl file with {"source": path, "edited": path or list of paths, "instruction": text} per line.

    Args:
      listing: paths in it are relative to its folder, and stay within it unless `allow_outside` is set.
      instruction: for lines without one.
    Returns:
      The edits, and a sentence for each bad line.
    """
    folder = partial(inside, listing.parent, allow_outside=allow_outside)

    def parse(_: int, line: _Line) -> list[ScoreJob]:
        # Candidates of one source in one line stay neighbours, so that the source is encoded once.
        edited = line.edited if isinstance(line.edited, list) else [line.edited]
        text = instruction if line.instruction is None else line.instruction
        if text is None:
            raise ValueError("it has no instruction: add one, or give --instruction")
        return [ScoreJob(str(folder(line.source)), str(folder(one)), text) for one in edited]

    return read_list(listing, _Line, parse, _EXAMPLE)


def score_jobs(
    scorer: Scorer, jobs: Sequence[ScoreJob], batch_size: int = 8, improvement: bool = True
) -> Iterator[tuple[ScoreJob, EditScore | Unscorable]]:
    """Each edit with its score (`Scorer.score`), or with the reason why it has none, in order; shows a progress bar."""

    def items() -> Iterator[ScorerItem | Unscorable]:
        for item in prefetch_map(scorer.prepare, map(astuple, jobs), batch_size * CHUNK_BATCHES):
            try:
                yield item.result()
            except ValueError as error:  # includes ImageError
                yield Unscorable(str(error))

    outcomes = scorer.stream(items(), batch_size=batch_size, improvement=improvement)
    yield from tqdm(zip(jobs, outcomes, strict=True), total=len(jobs), unit="edit", disable=len(jobs) < 2)


def score_to_file(
    scorer: Scorer, jobs: Sequence[ScoreJob], output: Path, batch_size: int = 8, improvement: bool = True
) -> list[str]:
    """Score the edits that `output` (.jsonl) does not have yet; with `improvement`, also those it has without.

    Returns:
      A sentence for each edit that cannot be scored. The others are scored.
    Raises:
      ValueError: `output` has a line that is not a score, or scores of another scorer.
    """
    work = partial(score_jobs, scorer, batch_size=batch_size, improvement=improvement)

    # A file that was made with --no-improvement can be completed later.
    def is_complete(line: Mapping[str, Any]) -> bool:
        return not improvement or line.get("improvement") is not None

    return _sentences(_results(output).run(jobs, work, scorer.fingerprint, is_complete=is_complete))


def merge_scores(jobs: Sequence[ScoreJob], parts: Sequence[Path], output: Path) -> list[str]:
    """Write the scores of all shards, in the order of the whole list, to one file (`ResultFile.merge`).

    Returns:
      A sentence for each edit that could not be scored.
    """
    return _sentences(_results(output).merge(parts, jobs))


def to_json(job: ScoreJob, outcome: EditScore | Unscorable) -> dict[str, Any]:
    """An edit and its score or error."""
    return {**asdict(job), **outcome.to_json()}


def _results(output: Path) -> ResultFile:
    # Fields of `ScoreJob`, and the name under which `Scorer.fingerprint` is stored.
    return ResultFile(output, ("source", "edited", "instruction"), "scorer")


def _sentences(failed: Mapping[ScoreJob, Failed]) -> list[str]:
    return [f"{job.edited}: {failure.reason}" for job, failure in failed.items()]
