"""Scoring for a curation: a scorer's scores of all edits, block by block, into a result file.

A score depends in its last bits on the batch that it is computed in. Blocks of neighbours are always scored as a whole,
so that a run that was stopped, or divided among machines, leaves the same bytes as one that was not.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rewardedit_jax.curation.scores import BLOCK, GAUSSIANS, ScoreJob, block_of, score_file
from rewardedit_jax.data.encoded import StoredEdits
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.data.runs import Failed
from rewardedit_jax.scoring.edit_score import EditScore, Gaussian, Unscorable
from rewardedit_jax.scoring.packing import ScorerItem
from rewardedit_jax.scoring.scorer import Scorer

_DIGITS = 6  # of stored numbers


@dataclass(frozen=True)
class StoredScore:
    """A score as a line of the file has it: [mean, standard deviation] of each Gaussian."""

    score: EditScore

    def to_json(self) -> dict[str, Any]:
        gaussians = {name: _rounded(getattr(self.score, name)) for name in GAUSSIANS}
        return {**gaussians, "improvement": round(self.score.improvement, _DIGITS)}


def _rounded(gaussian: Gaussian | None) -> list[float] | None:
    return None if gaussian is None else [round(value, _DIGITS) for value in gaussian]


def score_edits(scorer: Scorer, edits: StoredEdits, jobs: Sequence[ScoreJob], file: Path, batch_size: int) -> None:
    """Append the scores that `file` lacks. An edit that cannot be scored gets the reason instead.

    Args:
      jobs: of whole blocks (`in_blocks`), as far as their edits can be read.
    Raises:
      ValueError: the file has scores of another scorer.
    """

    def work(due: Sequence[ScoreJob]) -> Iterator[tuple[ScoreJob, StoredScore | Failed]]:
        wanted = set(due)
        begun = {block_of(job.number) for job in due}
        again = [job for job in jobs if block_of(job.number) in begun]
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
        for _, block in groupby(jobs, key=lambda job: block_of(job.number)):
            block = list(block)
            # A stream of its own: what an earlier block left in the cache of images would change the batches.
            items = [_item(future) for future in islice(futures, len(block))]
            for job, score in zip(block, scorer.stream(items, batch_size=batch_size), strict=True):
                yield job, StoredScore(score) if isinstance(score, EditScore) else score
                bar.update()


def _item(future: Future[ScorerItem]) -> ScorerItem | Unscorable:
    try:
        return future.result()
    except ValueError as error:
        return Unscorable(str(error))
