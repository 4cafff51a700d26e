"""Real-Edit: 80 photographs with seven requests each (Multi-Reward as Condition, arXiv:2411.04713, section 5).

The judge answers three questions about each edit with a yes or no and a score 0..5. For following and preserving it
sees the source and the edited image, for quality the edited image alone, as in the published evaluation.
"""

from pathlib import Path

from rewardedit_jax.data.encoded import RequestLabel
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import RUBRICS as SHIPPED
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Benchmark, Requests, open_requests
from rewardedit_jax.judging.answers import AnswerForm
from rewardedit_jax.judging.rubrics import EDITED, Rubric
from rewardedit_jax.reward import PERSPECTIVES

NAME = "real_edit"
RUBRICS = SHIPPED / NAME
# The keys of the yes or no are those of the published script.
QUESTIONS = (
    Rubric("following", form=AnswerForm(yes_no="following")),
    Rubric("preserving", form=AnswerForm(yes_no="consistent")),
    Rubric("quality", form=AnswerForm(yes_no="clear"), shows=(EDITED,), needs_instruction=False),
)


def open_real_edit(path: Path) -> Requests:
    return open_requests(path, NAME, group_of=_photograph)


def _photograph(label: RequestLabel) -> str:
    """Keys are "photograph/number of the instruction"."""
    return label.key.rpartition("/")[0] or label.key


REAL_EDIT = Benchmark(
    NAME,
    "Real-Edit: 80 photographs, seven edits each",
    version=1,
    asked=QUESTIONS,
    rubrics=RUBRICS,
    open=open_real_edit,
    measures=PERSPECTIVES,
)
