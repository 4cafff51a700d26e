"""GenAI-Bench, image editing: which of two edits people prefer (EditReward, arXiv:2509.26346, table 2; A.8).

Two files of TIGER-Lab/GenAI-Bench are read. A leaderboard entry, `<judge>/pairwise.json`, is a list of objects with
`idx` (the row, 0..918), `human_vote`, `model_vote` (null where the judge's text has no [[...]]) and `response`, the
text. The hub's parquet files, configuration image_edition (919 rows), have the human vote and the images, for any
scorer.

The leaderboard's accuracy uses four labels, so that a good tie called a bad one is wrong: Random 25.90 and GPT-4o 53.54
in table 2. Reward models in the same column are evaluated with three labels and a tuned tie threshold
(`aurora.evaluate_pairs`): the two kinds of figures are not comparable.

A vote that is none of the known words, such as `[[A > B]]`, is lost and counts as wrong, as on the leaderboard:
InstructBLIP has 19.80 and LLaVA-NeXT 25.35 of all 919 votes.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from rewardedit_jax.data import json_files
from rewardedit_jax.data.parquet import ParquetRows
from rewardedit_jax.data.records import BadRecords, Instruction
from rewardedit_jax.evaluation.report import Report, Row, sound_share
from rewardedit_jax.evaluation.reward_models import answers
from rewardedit_jax.evaluation.reward_models.answers import DECIDED, FIRST, KINDS, NOT_STORED, SECOND, TIE, TIES, Vote
from rewardedit_jax.evaluation.reward_models.aurora import Pair
from rewardedit_jax.evaluation.reward_models.edits import Edit
from rewardedit_jax.evaluation.reward_models.records import Records
from rewardedit_jax.listing import list_lines, list_names

# Human label → the judge's word for it.
ANSWER_OF = {"leftvote": FIRST, "rightvote": SECOND, "tievote": "[[A=B=Good]]", "bothbad_vote": "[[A=B=Bad]]"}
# Word of a judge → verdict: what `parse_response` of GenAI-Bench's inference.py accepts.
_VERDICTS = {word: word for word in (*DECIDED, *TIES)} | {"[[A>>B]]": FIRST, "[[B>>A]]": SECOND}
_VOTES = 919  # of the benchmark
_HUMAN = {"leftvote": 1, "rightvote": -1, "tievote": 0, "bothbad_vote": 0}  # a scorer has one kind of tie


# Stored answers of a judge.


class _VoteRecord(msgspec.Struct):
    idx: Any
    human_vote: Literal[tuple(ANSWER_OF)]
    model_vote: Any = None
    response: Any = None


def read_votes(file: Path) -> list[Vote]:
    """The votes of a `pairwise.json`, in its order, then those of the rows that are missing between the others."""
    records = json_files.read_json(file, Records[_VoteRecord])
    if repeated := [idx for idx, count in Counter(str(r.idx) for r in records).items() if count > 1]:
        raise ValueError(f"{file}: idx {list_names(repeated)} occurs more than once; expected one vote per idx")
    votes = [Vote(_key(r.idx), ANSWER_OF[r.human_vote], _judged(r)) for r in records]
    return votes + [Vote(_key(idx), NOT_STORED, answers.MISSING) for idx in _missing_rows([r.idx for r in records])]


def _key(idx: Any) -> str:
    return f"idx {idx}"


def _judged(record: _VoteRecord) -> str:
    word = record.model_vote
    return _VERDICTS[word] if isinstance(word, str) and word in _VERDICTS else answers.lost_kind(word, record.response)


def _missing_rows(indices: Sequence[Any]) -> list[int]:
    """The rows below the highest one that are not there, if the indices are rows of the benchmark."""
    if not all(isinstance(idx, int) and 0 <= idx < _VOTES for idx in indices):
        return []
    return sorted(set(range(max(indices))) - set(indices))


def evaluate_votes(votes: Sequence[Vote], other_order: Sequence[Vote] | None = None, seed: int = 0) -> Report:
    """Accuracies of a judge.

    If its answers for exchanged edits are given, from `align_swapped`, sound measures average over both orders, and the
    report says how often the answers agree.
    """
    orders = [votes] if other_order is None else [votes, other_order]
    four = answers.mean_over_orders(orders, lambda vote: vote.right)
    three = answers.mean_over_orders(orders, lambda vote: vote.right or {vote.human, vote.judged} <= {*TIES})
    decided = four[[vote.human in DECIDED for vote in votes]]
    right = sum(vote.right_as_published for vote in votes)
    rows = [
        Row("four labels", "published", right / len(votes), f"{len(votes)} votes"),
        sound_share("four labels", four, "votes", seed),
        sound_share("ties as one label", three, "votes", seed),
        *([sound_share("humans decided", decided, "votes", seed)] if len(decided) else []),
    ]
    if other_order is not None:
        rows.append(answers.same_answer(votes, other_order, "votes", seed))
    values = {
        "accuracy": round(100 * right / len(votes), 2),
        "correct": right,
        "votes": len(votes),
        "seed": seed,
        "counts": _counts(votes),
    }
    report = Report("GenAI-Bench, image editing: a judge's answers (%)", rows, _notes(votes), values, percent=True)
    return report.with_notes(*answers.notes_lost(orders, "votes", "wrong in both protocols"))


def _counts(votes: Sequence[Vote]) -> dict[str, dict[str, int]]:
    """Human verdict → the judge's verdict, or kind of a lost answer, → votes."""
    counts = Counter((vote.human, vote.judged) for vote in votes)
    labels = [*ANSWER_OF.values()]
    # Columns that few judges need are left out where they are empty.
    judged = [*labels, *(word for word in (TIE, *KINDS) if any(vote.judged == word for vote in votes))]
    return {human: {word: counts[human, word] for word in judged} for human in labels}


def _notes(votes: Sequence[Vote]) -> list[str]:
    label, count = Counter(vote.human for vote in votes if vote.human != NOT_STORED).most_common(1)[0]
    rest = f" The benchmark has {_VOTES}." if len(votes) < _VOTES else ""
    return [
        f"Baseline: the constant answer {label} is right in {100 * count / len(votes):.2f} % of the {len(votes)} votes."
        + rest,
        "Published figures of reward models use three labels and a tie threshold tuned on the test data: "
        "not comparable with these.",
    ]


# The hub's parquet files.


class _Image(msgspec.Struct):
    data: bytes | None = msgspec.field(name="bytes", default=None)  # without it, its edits cannot be scored


class _HubRow(msgspec.Struct):
    instruct_prompt: Instruction
    vote_type: Literal[tuple(_HUMAN)]
    source_image: _Image
    left_output_image: _Image
    right_output_image: _Image


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
            Edit(row.source_image.data or b"", getattr(row, side).data or b"", row.instruct_prompt, f"{name}, {side}")
            for side in ("left_output_image", "right_output_image")
        )
        pairs.append(Pair(first, second, _HUMAN[row.vote_type]))
    return pairs
