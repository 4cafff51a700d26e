"""GEdit-Bench: 606 images, requests in English and Chinese, 11 tasks (Step1X-Edit, arXiv:2504.17761).

The judge gives two scores 0..10 for semantic consistency (of source, edited image and instruction) and two for
perceptual quality (of the edited image alone), as VIEScore (arXiv:2312.14867) does. A measure is the lower one of its
two scores; the overall score of an edit is the root of the product of both measures. The published figure is the mean
over tasks of the mean over edits, by language, of all edits and of those that all compared models have answered.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rewardedit_jax.data.encoded import RequestLabel
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import RUBRICS, Benchmark, Item, Requests, open_requests
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import Outcome
from rewardedit_jax.judging.answers import AnswerForm
from rewardedit_jax.judging.images import AREA, AS_SOURCE
from rewardedit_jax.judging.rubrics import EDITED, Rubric

NAME = "gedit_bench"
CONSISTENCY, QUALITY, OVERALL = "semantic_consistency", "perceptual_quality", "overall"
_TWO_SCORES = AnswerForm("reasoning", scores=2, worst=0.0, best=10.0)
QUESTIONS = (
    Rubric(CONSISTENCY, form=_TWO_SCORES),
    Rubric(QUALITY, form=_TWO_SCORES, shows=(EDITED,), needs_instruction=False),
)


def open_gedit_bench(path: Path) -> Requests:
    return open_requests(path, NAME, _file, _image)


def _file(label: RequestLabel) -> str:
    """As the published results have it: task/language/key.png."""
    language, _, key = label.key.partition("/")
    return f"{label.edit_type}/{language}/{key}.png"


def _image(label: RequestLabel) -> str:
    """Keys are "language/key": both languages have the same images."""
    return label.key.partition("/")[2]


def overall(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """The score that follows from both measures; it fails if one of them does."""
    found = outcomes[CONSISTENCY], outcomes[QUALITY]
    if failed := [outcome.failure for outcome in found if outcome.failure is not None]:
        return {OVERALL: Outcome(failure=failed[0])}
    return {OVERALL: Outcome(math.sqrt(found[0].score * found[1].score))}


def _sets(item: Item) -> Sequence[str]:
    language = item.label.extra.get("language")
    if language is None:  # a request that a prepared data set lacks
        return (item.label.edit_type,)
    return (language, f"{language} intersection") if item.label.extra["intersection"] else (language,)


GEDIT_BENCH = Benchmark(
    NAME,
    "GEdit-Bench: 606 images, in English and Chinese",
    version=1,
    asked=QUESTIONS,
    rubrics=RUBRICS / NAME,
    open=open_gedit_bench,
    measures=(CONSISTENCY, QUALITY, OVERALL),
    # The first published script resizes the result to the source, the later one both to an area.
    image_sizes=(AREA, AS_SOURCE),
    derived=overall,
    sets=_sets,
    has_whole=False,
    takes_perspectives=False,
)
