"""Hard training edits, edited again (Multi-Reward as Condition, arXiv:2411.04713, appendix C.3, table 9).

The paper takes 500 training edits with low scores, has the reward-conditioned editor make them again, and has a judge
score both. Which edits are hard follows from the rewards of the data. The judge has to be asked about the original
edits anew (`--targets`): low scores are partly chance, and those of a second answer are higher on average.
"""

from functools import partial
from itertools import islice
from pathlib import Path

from rewardedit_jax.command_line import whole_number
from rewardedit_jax.data.encoded import EncodedEdit, EncodedRequest, RequestLabel, digest
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Benchmark, Item, Requests
from rewardedit_jax.evaluation.editing_benchmarks.real_edit import QUESTIONS, RUBRICS
from rewardedit_jax.reward import PERSPECTIVES

NAME = "hard_edits"
LIMIT = 2  # an edit is hard in a perspective where its score is not above this
COUNT = 500  # as in the paper


def open_hard_edits(path: Path, labels: str = "", count: int = COUNT) -> Requests:
    """The first edits of the data with a score of at most `LIMIT` in a perspective. Their types name these.

    Args:
      path: a prepared data set or a list of triplets, with rewards.
      labels: the file of their rewards; "": those of the data itself.
    Raises:
      BadRecords: no edit has such a reward.
    """
    edits = open_edits(path, labels=labels)
    hard = islice((number for number in range(len(edits)) if _is_hard(edits.encoded(number))), count)
    items = [_item(edits.encoded(number), place, number) for place, number in enumerate(hard)]
    if not items:
        raise BadRecords(f"{path} has no edit with a score of at most {LIMIT}: it takes data with rewards (--labels).")

    def read(item: Item, target: bool) -> EncodedRequest:
        edit = edits.encoded(item.label.extra["number"])
        image, name = (edit.edited, edit.names[1]) if target else (edit.source, edit.names[0])
        return EncodedRequest(edit.key, edit.instruction, image, item.label.edit_type, name=name)

    return Requests(items, partial(read, target=False), partial(read, target=True))


def _is_hard(edit: EncodedEdit) -> bool:
    return edit.scores is not None and min(edit.scores) <= LIMIT


def _item(edit: EncodedEdit, place: int, number: int) -> Item:
    hard_in = [name for name, score in zip(PERSPECTIVES, edit.scores, strict=True) if score <= LIMIT]
    label = RequestLabel(edit.key, edit.instruction, ", ".join(hard_in), {"number": number})
    return Item(label, place, f"{place}.png", digest(edit.source)[:12])


HARD_EDITS = Benchmark(
    NAME,
    f"Training edits with a score of at most {LIMIT}, by the perspectives that they fail in",
    version=1,
    asked=QUESTIONS,
    rubrics=RUBRICS,
    open=open_hard_edits,
    options={
        "labels": {"default": "", "metavar": "FILE", "help": "rewards of launch/label.py (default: those of the data)"},
        "count": {"default": COUNT, "type": partial(whole_number, least=1), "help": "edits (default: %(default)s)"},
    },
    measures=PERSPECTIVES,
)
