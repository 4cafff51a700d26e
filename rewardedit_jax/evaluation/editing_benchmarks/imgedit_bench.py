"""The basic set of ImgEdit-Bench: requests of nine types (ImgEdit, arXiv:2505.20275).

The judge gives three scores 1..5 for an edit in one answer: does it comply, does it look natural, are physics and the
other details kept. The published figures are the mean of the three per edit, and its mean for each type.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from rewardedit_jax.data.encoded import RequestLabel
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import RUBRICS, Benchmark, Requests, open_requests
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import Outcome
from rewardedit_jax.judging.answers import AnswerForm
from rewardedit_jax.judging.rubrics import Rubric

NAME = "imgedit_bench"
_EDIT, AVERAGE = "edit", "average"
PARTS = ("compliance", "naturalness", "integrity")  # in the order of the scores
QUESTIONS = (Rubric(_EDIT, form=AnswerForm("reasoning", scores=len(PARTS), worst=1.0)),)


def open_imgedit_bench(path: Path) -> Requests:
    return open_requests(path, NAME, group_of=_image)


def _image(label: RequestLabel) -> str:
    return str(label.extra.get("image", label.key))


def parts(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """The three scores as measures, and their mean."""
    edit = outcomes[_EDIT]
    if edit.failure is not None:
        return dict.fromkeys((*PARTS, AVERAGE), edit)
    scores = dict(zip(PARTS, edit.scores, strict=True)) | {AVERAGE: fmean(edit.scores)}
    return {measure: Outcome(score) for measure, score in scores.items()}


IMGEDIT_BENCH = Benchmark(
    NAME,
    "ImgEdit-Bench, the basic set",
    version=1,
    asked=QUESTIONS,
    rubrics=RUBRICS / NAME,
    open=open_imgedit_bench,
    measures=(*PARTS, AVERAGE),
    derived=parts,
    takes_perspectives=False,
)
