"""Scores of edits in a result file: which edits are scored together, and the scores as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rewardedit_jax.data.runs import ResultFile, Shard

MAKER = "scorer"  # the field of a line that holds the fingerprint of the scorer
BLOCK = 256  # edits that are scored together; a stopped run loses one block at most
GAUSSIANS = ("following", "quality", "overall", "unchanged")


@dataclass(frozen=True)
class ScoreJob:
    """An edit to be scored. A line belongs to it only if images and instruction are the same (`Facts.content`)."""

    key: str
    content: str
    number: int = field(compare=False)  # of the edit in its source


def score_file(file: Path) -> ResultFile:
    return ResultFile(file, ("key", "content"), MAKER)


def block_of(number: int) -> int:
    """The number of the block that an edit belongs to."""
    return number // BLOCK


def in_blocks(numbers: Sequence[int], part: Shard) -> list[int]:
    """The numbers of edits whose block belongs to this machine."""
    return [number for number in numbers if block_of(number) % part.count == part.index - 1]


@dataclass(frozen=True)
class Scores:
    """The scores of `n` edits; NaN where an edit has none."""

    gaussians: Mapping[str, Float[np.ndarray, "n 2"]]  # "following", "quality", "overall", "unchanged" → mean, std
    failures: Mapping[int, str]  # number of an edit → why it has no score
    maker: str | None  # fingerprint of the scorer; None: nothing is scored


def read_scores(file: Path | None, jobs: Sequence[ScoreJob], total: int) -> Scores:
    """The scores of `total` edits from a file; None: there are none."""
    gaussians = {name: np.full((total, 2), np.nan) for name in GAUSSIANS}
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
        for name in GAUSSIANS:
            gaussians[name][number] = line[name] or np.nan
    if len(makers) > 1:
        raise ValueError(f"{file} has scores of several scorers, {', '.join(sorted(makers))}: give a file of one.")
    failures |= dict.fromkeys(numbers.values(), f"{file} has no score of this edit") if file else {}
    return Scores(gaussians, failures, makers.pop() if makers else None)
