"""GenAI-Bench, image editing: which of two edits people preferred, against the stored answers of a judge.

The leaderboard's `<judge>/pairwise.json` is a list of objects with `idx`, `human_vote` and `model_vote`. The accuracy
counts all votes and all four labels, so a good tie called a bad one is wrong. Reward models are measured otherwise,
three-way with a tuned threshold (`pairs`): the two numbers are not the same measure.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardedit_jax.evaluation.report import Report, Row, sound_share
from rewardedit_jax.evaluation.reward_models.json_records import listed, read_records
from rewardedit_jax.evaluation.reward_models.votes import (
    DECIDED,
    FIRST,
    SECOND,
    Vote,
    same_answer,
    share_of_orders,
)

# Human label → the judge's word for it.
ANSWER_OF = {
    "leftvote": FIRST,
    "rightvote": SECOND,
    "tievote": "[[A=B=Good]]",
    "bothbad_vote": "[[A=B=Bad]]",
}
_ANSWERS = tuple(ANSWER_OF.values())
_LAYOUT = 'a list of {"idx", "human_vote", "model_vote"}, as GenAI-Bench publishes <judge>/pairwise.json'


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
    return Vote(f"idx {record['idx']}", ANSWER_OF[record["human_vote"]], record["model_vote"])


def _three_way(vote: Vote) -> bool:
    """Whether both verdicts agree, all ties being one."""
    return vote.right or (vote.human not in DECIDED and vote.judged not in DECIDED)


def evaluate_votes(votes: Sequence[Vote], other_order: Sequence[Vote] | None = None, seed: int = 0) -> Report:
    """Accuracies of a judge.

    Args:
      other_order: its answers when the edits changed places, as `votes.turned` gives them. Then sound measures count
        each vote half in either order, and how often both answers are the same is told.
      seed: of the bootstrap.
    """
    orders = [votes] if other_order is None else [votes, other_order]
    four = share_of_orders(orders, lambda vote: vote.right)
    decided = four[[vote.human in DECIDED for vote in votes]]
    correct = sum(vote.right for vote in votes)
    rows = [
        Row("four labels", "published", correct / len(votes), f"{len(votes)} votes"),
        sound_share("four labels", four, "votes", seed),
        sound_share("ties as one label", share_of_orders(orders, _three_way), "votes", seed),
        *([sound_share("humans decided", decided, "votes", seed)] if len(decided) else []),
    ]
    if other_order is not None:
        rows.append(same_answer(votes, other_order, "votes", seed))
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
