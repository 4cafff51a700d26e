"""Scores of edits by a scorer, in a result file: computed block by block, and read as arrays.

A score depends in its last bits on the batch that it is computed in. Blocks of neighbours are always scored as a whole,
so that a run that was stopped, or divided among machines, leaves the same bytes as one that was not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from rewardedit_jax.data.encoded import StoredEdits
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.data.runs import Failed, ResultFile, Shard
from rewardedit_jax.scoring.edit_score import EditScore, Gaussian, Unscorable
from rewardedit_jax.scoring.packing import ScorerItem
from rewardedit_jax.scoring.scorer import Scorer

MAKER = "scorer"  # the field of a line that holds the fingerprint of the scorer
BLOCK = 256  # edits; a stopped run loses one block at most
_GAUSSIANS = ("following", "quality", "overall", "unchanged")
_DIGITS = 6  # of stored numbers


@dataclass(frozen=True)
class ScoreJob:
    """An edit to be scored. A line belongs to it only if images and instruction are the same (`Facts.content`)."""

    key: str
    content: str
    number: int = field(compare=False)  # of the edit in its source


@dataclass(frozen=True)
class StoredScore:
    """A score as a line of the file has it: [mean, standard deviation] of each Gaussian."""

    score: EditScore

    def to_json(self) -> dict[str, Any]:
        gaussians = {name: _rounded(getattr(self.score, name)) for name in _GAUSSIANS}
        return {**gaussians, "improvement": round(self.score.improvement, _DIGITS)}


def _rounded(gaussian: Gaussian | None) -> list[float] | None:
    return None if gaussian is None else [round(value, _DIGITS) for value in gaussian]


def score_file(file: Path) -> ResultFile:
    return ResultFile(file, ("key", "content"), MAKER)


def score_edits(scorer: Scorer, edits: StoredEdits, jobs: Sequence[ScoreJob], file: Path, batch_size: int) -> None:
    """Append the scores that `file` lacks. An edit that cannot be scored gets the reason instead.

    Args:
      jobs: of whole blocks (`in_blocks`), as far as their edits can be read.
    Raises:
      ValueError: the file has scores of another scorer.
    """

    def work(due: Sequence[ScoreJob]) -> Iterator[tuple[ScoreJob, StoredScore | Failed]]:
        wanted = set(due)
        begun = {job.number // BLOCK for job in due}
        again = [job for job in jobs if job.number // BLOCK in begun]
        yield from (scored for scored in _score_blocks(scorer, edits, again, batch_size) if scored[0] in wanted)

    score_file(file).run(jobs, work, scorer.fingerprint)


def _score_blocks(
    scorer: Scorer, edits: StoredEdits, jobs: Sequence[ScoreJob], batch_size: int
) -> Iterator[tuple[ScoreJob, StoredScore | Failed]]:
    def prepare(number: int) -> ScorerItem:
        record = edits[number]
        return scorer.prepare(record.source, record.edited, record.instruction)

    futures = prefetch_map(prepare, ((job.number,) for job in jobs), BLOCK)
    with tqdm(total=len(jobs), desc="scores", unit=" edits") as bar:
        for _, block in groupby(jobs, key=lambda job: job.number // BLOCK):
            block = list(block)
            # A stream of its own: what an earlier block left in the cache of images would change the batches.
            items = [_item(future) for future in islice(futures, len(block))]
            for job, score in zip(block, scorer.stream(items, batch_size=batch_size), strict=True):
                yield job, StoredScore(score) if isinstance(score, EditScore) else score
                bar.update()


def _item(future: Any) -> ScorerItem | Unscorable:
    try:
        return future.result()
    except ValueError as error:
        return Unscorable(str(error))


def in_blocks(numbers: Sequence[int], part: Shard) -> list[int]:
    """The numbers of edits whose block belongs to this machine."""
    return [number for number in numbers if number // BLOCK % part.count == part.index - 1]


@dataclass(frozen=True)
class Scores:
    """The scores of `n` edits; NaN where an edit has none."""

    gaussians: Mapping[str, Float[np.ndarray, "n 2"]]  # "following", "quality", "overall", "unchanged" → mean, std
    failures: Mapping[int, str]  # number of an edit → why it has no score
    maker: str | None  # fingerprint of the scorer; None: nothing is scored


def read_scores(file: Path | None, jobs: Sequence[ScoreJob], total: int) -> Scores:
    """The scores of `total` edits from a file; None: there are none."""
    gaussians = {name: np.full((total, 2), np.nan) for name in _GAUSSIANS}
    numbers = {(job.key, job.content): job.number for job in jobs}
    failures, makers = {}, set()
    for line in score_file(file).results() if file else ():
        makers.add(str(line[MAKER]))
        # The file may have edits of other data.
        if (number := numbers.pop((line["key"], line["content"]), None)) is None:
            continue
        if "error" in line:
            failures[number] = line["error"]
            continue
        for name in _GAUSSIANS:
            gaussians[name][number] = line[name] or np.nan
    if len(makers) > 1:
        raise ValueError(f"{file} has scores of several scorers, {', '.join(sorted(makers))}: give a file of one.")
    failures |= dict.fromkeys(numbers.values(), f"{file} has no score of this edit") if file else {}
    return Scores(gaussians, failures, makers.pop() if makers else None)
