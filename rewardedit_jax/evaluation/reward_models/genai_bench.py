"""GenAI-Bench, image editing: which of two edits people prefer (EditReward, arXiv:2509.26346, table 2; A.8).

Two files of TIGER-Lab/GenAI-Bench are read. A leaderboard entry, `<judge>/pairwise.json`, is a list of objects with
`idx`, `human_vote` and `model_vote`. The hub's parquet files, configuration image_edition (919 rows), have the human
vote and the images, for any scorer.

The leaderboard's accuracy uses four labels, so that a good tie called a bad one is wrong: Random 25.90 and GPT-4o 53.54
in table 2. Reward models in the same column are evaluated with three labels and a tuned tie threshold
(`aurora.evaluate_pairs`): the two kinds of figures are not comparable.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from jaxtyping import Float

from rewardedit_jax.data import json_files
from rewardedit_jax.data.parquet import ParquetRows
from rewardedit_jax.data.records import BadRecords, list_lines
from rewardedit_jax.evaluation.report import Report, Row, listed, sound_share
from rewardedit_jax.evaluation.reward_models.aurora import Pair
from rewardedit_jax.evaluation.reward_models.edits import Edit, EmbeddedImage, NotBlank, Records

FIRST, SECOND = DECIDED = "[[A>B]]", "[[B>A]]"  # A is the edit that is shown first
UNKNOWN = "Unknown"  # an answer without a verdict
# Human label → the judge's word for it.
ANSWER_OF = {"leftvote": FIRST, "rightvote": SECOND, "tievote": "[[A=B=Good]]", "bothbad_vote": "[[A=B=Bad]]"}
_MIRRORED = {FIRST: SECOND, SECOND: FIRST}  # a tie is its own mirror image
_HUMAN = {"leftvote": 1, "rightvote": -1, "tievote": 0, "bothbad_vote": 0}  # a scorer has one kind of tie


# Votes of a judge, in one order of the edits or in both.


@dataclass(frozen=True)
class Vote:
    """One comparison of two edits by people and by a judge, both in the judge's words."""

    key: str  # identifies the comparison in both orders
    human: str
    judged: str

    @property
    def right(self) -> bool:
        return self.human == self.judged


AnyVote = TypeVar("AnyVote", bound=Vote)
Votes = Sequence[AnyVote | None]  # None: the judge failed


def align_swapped(votes: Votes[AnyVote], swapped: Votes[AnyVote], file: Path) -> Votes[AnyVote]:
    """The swapped votes in the order of `votes`, with their verdicts mirrored back.

    A failed answer does not say which comparison it was: it may be any that was answered in the other order only.

    Args:
      file: file of `swapped`, for errors: both orders need the same comparisons, with human votes that change sides.
    """
    mirrored = {
        vote.key: replace(
            vote, human=_MIRRORED.get(vote.human, vote.human), judged=_MIRRORED.get(vote.judged, vote.judged)
        )
        for vote in filter(None, swapped)
    }
    known = dict.fromkeys(vote.key for vote in filter(None, votes))
    only_here, only_swapped = [k for k in known if k not in mirrored], [k for k in mirrored if k not in known]
    if len(only_here) > swapped.count(None) or len(only_swapped) > votes.count(None):
        unmatched = [*only_here, *only_swapped]
        raise ValueError(f"{file}: {len(unmatched)} comparisons are in one order only: {listed(unmatched)}")
    if len(swapped) != len(votes):
        raise ValueError(f"{file}: {len(swapped)} votes in this order and {len(votes)} in the other; expected the same")
    unassigned = iter(only_swapped)
    found = [mirrored.get(vote.key if vote else next(unassigned, "")) for vote in votes]
    # Human votes that stay on their side show that the file was not made with exchanged edits.
    if unlike := [a.key for a, b in zip(votes, found, strict=True) if a and b and a.human != b.human]:
        raise ValueError(f"{file}: {len(unlike)} human votes do not change sides with the edits: {listed(unlike)}")
    return found


def mean_over_orders(orders: Sequence[Votes[Vote]], right: Callable[[Vote], bool]) -> Float[np.ndarray, " n"]:
    """The share of orders in which each comparison is right; a failed answer is wrong."""
    return np.mean([[vote is not None and right(vote) for vote in order] for order in orders], axis=0)


def same_answer(votes: Votes[Vote], other_order: Votes[Vote], what: str, seed: int) -> Row:
    """The share of comparisons that a judge answers alike in both orders: its position bias (EditReward, A.8)."""
    # Two failed or unknown answers do not count as agreement.
    same = [bool(a and b and a.judged == b.judged != UNKNOWN) for a, b in zip(votes, other_order, strict=True)]
    return sound_share("same answer in both orders", np.array(same), what, seed)


# Stored answers of a judge.


class _VoteRecord(msgspec.Struct):
    idx: Any
    human_vote: Literal[tuple(ANSWER_OF)]
    model_vote: Literal[tuple(ANSWER_OF.values())]


def read_votes(file: Path) -> list[Vote]:
    """The votes of a `pairwise.json`, in its order."""
    records = json_files.read_json(file, Records[_VoteRecord])
    if repeated := [idx for idx, count in Counter(str(r.idx) for r in records).items() if count > 1]:
        raise ValueError(f"{file}: idx {listed(repeated)} occurs more than once; expected one vote per idx")
    return [Vote(f"idx {r.idx}", ANSWER_OF[r.human_vote], r.model_vote) for r in records]


def evaluate_votes(votes: Sequence[Vote], other_order: Sequence[Vote] | None = None, seed: int = 0) -> Report:
    """Accuracies of a judge.

    If its answers for exchanged edits are given, from `align_swapped`, sound measures average over both orders, and the
    report says how often the answers agree.
    """
    orders = [votes] if other_order is None else [votes, other_order]
    four = mean_over_orders(orders, lambda vote: vote.right)
    three = mean_over_orders(orders, lambda vote: vote.right or {vote.human, vote.judged}.isdisjoint(DECIDED))
    decided = four[[vote.human in DECIDED for vote in votes]]
    right = sum(vote.right for vote in votes)
    rows = [
        Row("four labels", "published", right / len(votes), f"{len(votes)} votes"),
        sound_share("four labels", four, "votes", seed),
        sound_share("ties as one label", three, "votes", seed),
        *([sound_share("humans decided", decided, "votes", seed)] if len(decided) else []),
    ]
    if other_order is not None:
        rows.append(same_answer(votes, other_order, "votes", seed))
    label, count = Counter(vote.human for vote in votes).most_common(1)[0]
    counts, labels = Counter((vote.human, vote.judged) for vote in votes), ANSWER_OF.values()
    values = {
        "accuracy": round(100 * right / len(votes), 2),
        "correct": right,
        "votes": len(votes),
        "seed": seed,
        "counts": {human: {judged: counts[human, judged] for judged in labels} for human in labels},
    }
    notes = [
        f"Baseline: the constant answer {label} is right in {100 * count / len(votes):.2f} % of the votes.",
        "Published figures of reward models use three labels and a tie threshold tuned on the test data: "
        "not comparable with these.",
    ]
    return Report("GenAI-Bench, image editing: a judge's answers (%)", rows, notes, values, percent=True)


# The hub's parquet files.


class _HubRow(msgspec.Struct):
    instruct_prompt: NotBlank
    vote_type: Literal[tuple(_HUMAN)]
    source_image: EmbeddedImage
    left_output_image: EmbeddedImage
    right_output_image: EmbeddedImage


_HUB_COLUMNS = _HubRow.__struct_fields__
_HUB_LAYOUT = f"expected the hub's TIGER-Lab/GenAI-Bench, folder image_edition: columns {', '.join(_HUB_COLUMNS)}"


def read_hub_pairs(directory: Path) -> list[Pair]:
    """The pairs of all parquet files under a directory; their encoded images are held in memory."""
    rows = ParquetRows(directory, _HUB_COLUMNS, _HUB_LAYOUT)
    named = ((rows.name(i), rows[i]) for i in range(len(rows)))
    entries, faults = json_files.validate(named, _HubRow)
    # No row is skipped: that would change the denominator of the accuracy.
    if faults:
        heading = f"{directory}: {len(faults)} of {len(rows)} rows cannot be evaluated (votes: {', '.join(_HUMAN)}):"
        raise BadRecords(list_lines(heading, faults))
    pairs = []
    for _, name, row in entries:
        first, second = (
            Edit(row.source_image.bytes, getattr(row, side).bytes, row.instruct_prompt, f"{name}, {side}")
            for side in ("left_output_image", "right_output_image")
        )
        pairs.append(Pair(first, second, _HUMAN[row.vote_type]))
    return pairs
