"""GenAI-Bench, image editing: which of two edits people preferred, against the stored answers of a judge.

The leaderboard's `<judge>/pairwise.json` is a list of objects with `idx`, `human_vote` and `model_vote`. The accuracy
counts all votes and all four labels, so a good tie called a bad one is wrong. Reward models are measured otherwise,
three-way with a tuned threshold (`pairs`): the two numbers are not the same measure.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewardedit_jax.evaluation.reward_benchmarks.json_records import listed, read_records
from rewardedit_jax.evaluation.reward_benchmarks.report import Report, Row, sound_share

# Human label → the judge's word for it.
ANSWER_OF = {
    "leftvote": "[[A>B]]",
    "rightvote": "[[B>A]]",
    "tievote": "[[A=B=Good]]",
    "bothbad_vote": "[[A=B=Bad]]",
}
_ANSWERS = tuple(ANSWER_OF.values())
_MIRRORED = {"[[A>B]]": "[[B>A]]", "[[B>A]]": "[[A>B]]"}  # what is left out looks the same from both sides
_DECIDED = tuple(_MIRRORED)
_LAYOUT = 'a list of {"idx", "human_vote", "model_vote"}, as GenAI-Bench publishes <judge>/pairwise.json'


@dataclass(frozen=True)
class Vote:
    """One comparison, both verdicts in the judge's words."""

    key: str
    human: str
    judged: str

    @property
    def three_way(self) -> bool:
        """Whether they agree, all ties being one."""
        return self.human == self.judged or (self.human not in _DECIDED and self.judged not in _DECIDED)


def read_votes(file: Path) -> list[Vote]:
    """The votes of a `pairwise.json`, in its order.

    Raises:
      FileNotFoundError, ValueError: naming the file and, where one is at fault, the item and its label.
    """
    records = read_records(file, ("idx", "human_vote", "model_vote"), _LAYOUT)
    repeated = [key for key, count in Counter(str(r["idx"]) for r in records).items() if count > 1]
    if repeated:
        raise ValueError(f"{file}: idx {listed(repeated)} occurs more than once; each vote counts once.")
    return [_vote(record, file) for record in records]


def _vote(record: dict[str, Any], file: Path) -> Vote:
    for key, known in (("human_vote", tuple(ANSWER_OF)), ("model_vote", _ANSWERS)):
        if record[key] not in known:
            raise ValueError(
                f"{file}, item {record['idx']}: unknown {key} {record[key]!r}; known are {', '.join(known)}."
            )
    return Vote(str(record["idx"]), ANSWER_OF[record["human_vote"]], record["model_vote"])


def turned(votes: Sequence[Vote], swapped: Sequence[Vote], file: Path) -> list[Vote]:
    """Votes on the same edits shown in the other order, put back into the order of `votes`.

    Raises:
      ValueError: if they are not of the same items, or the human votes have not changed sides with the edits.
    """
    of_key = {vote.key: vote for vote in swapped}
    strange = [vote.key for vote in votes if vote.key not in of_key] + sorted(of_key.keys() - {v.key for v in votes})
    if strange:
        raise ValueError(f"{file}: {len(strange)} votes are in one order only: idx {listed(strange)}.")
    back = [Vote(v.key, *(_MIRRORED.get(a, a) for a in (of_key[v.key].human, of_key[v.key].judged))) for v in votes]
    unlike = [vote.key for vote, other in zip(votes, back, strict=True) if vote.human != other.human]
    if unlike:
        raise ValueError(
            f"{file}: {len(unlike)} human votes are not those of the other order with left and right exchanged: "
            f"idx {listed(unlike)}."
        )
    return back


def evaluate_votes(votes: Sequence[Vote], other_order: Sequence[Vote] | None = None, seed: int = 0) -> Report:
    """Accuracies of a judge.

    Args:
      other_order: its answers when the edits changed places, as `turned` gives them. Then sound measures count each
        vote half in either order, and how often both answers are the same is told.
      seed: of the bootstrap.
    """
    orders = [votes] if other_order is None else [votes, other_order]
    four = np.mean([[vote.human == vote.judged for vote in order] for order in orders], axis=0)
    three = np.mean([[vote.three_way for vote in order] for order in orders], axis=0)
    decided = four[[vote.human in _DECIDED for vote in votes]]
    correct = sum(vote.human == vote.judged for vote in votes)
    rows = [
        Row("four labels", "published", correct / len(votes), f"{len(votes)} votes"),
        sound_share("four labels", four, "votes", seed),
        sound_share("ties as one label", three, "votes", seed),
        *([sound_share("humans decided", decided, "votes", seed)] if len(decided) else []),
    ]
    if other_order is not None:
        same = np.array([a.judged == b.judged for a, b in zip(votes, other_order, strict=True)], float)
        rows.append(sound_share("same answer in both orders", same, "votes", seed))
    label, count = Counter(vote.human for vote in votes).most_common(1)[0]
    values = {
        "accuracy": round(100 * correct / len(votes), 2),
        "correct": correct,
        "votes": len(votes),
        "seed": seed,
        "counts": _counts(votes),
    }
    notes = [
        f"Always answering {label} would be right in {100 * count / len(votes):.2f} % of the votes.",
        "Reward models are published three-way with a tie threshold tuned on the test data: another measure.",
    ]
    return Report("GenAI-Bench, image editing: a judge's answers (%)", rows, notes, values, percent=True)


def _counts(votes: Sequence[Vote]) -> dict[str, dict[str, int]]:
    """Human verdict → the judge's → how many."""
    counted = Counter((vote.human, vote.judged) for vote in votes)
    return {human: {judged: counted[human, judged] for judged in _ANSWERS} for human in _ANSWERS}
