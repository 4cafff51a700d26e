"""The report of a labelling: what was answered, how the scores are distributed, which words the feedback has.

The charts are figures 3 and 4 of Multi-Reward as Condition (arXiv:2411.04713): scores and most frequent words of each
perspective. Where the edits have ratings of their own, by people or by another judge, the report measures agreement.
"""

import re
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.command_line import add_allow_outside, local_path, png_file
from rewardedit_jax.data.encoded import StoredEdits
from rewardedit_jax.data.labels import Label, read_labels
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.evaluation.charts import INK, new_figure, require_matplotlib, save_figure
from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.evaluation.statistics import bootstrap_interval, spearman
from rewardedit_jax.judging.command import add_price_arguments, prices
from rewardedit_jax.judging.costs import describe_usage
from rewardedit_jax.judging.store import Store
from rewardedit_jax.reward import BEST, NOTHING_FAILED, PERSPECTIVES
from rewardedit_jax.weights.files import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Ratings = Float[np.ndarray, "n 3"]  # 0..5; NaN where there is none
_LEVELS = range(int(BEST) + 1)  # whole scores
_WORDS = 12  # shown per perspective
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
# Words that say nothing about a failure.
_STOP_WORDS = """a an and are as at be been but by did does for from had has have in instead into is it its of on or
some than that the their there they this to was were which with"""
_COLORS = ("#3a6ebe", "#3f9b6c", "#c2713a")  # of the perspectives


@dataclass(frozen=True)
class Agreement:
    """How the labels of one perspective agree with the edits' own ratings."""

    perspective: str
    edits: int
    spearman: float
    spearman_interval: tuple[float, float]
    alpha: float  # Krippendorff's, for ordinal values
    alpha_interval: tuple[float, float]


@dataclass(frozen=True)
class LabelReport:
    """Counts of one label file."""

    edits: int
    complete: int  # edits with all three scores
    scores: Mapping[str, Sequence[float]]  # perspective → all scores
    failures: Mapping[str, Mapping[str, int]]  # perspective → reason → number, most frequent first
    words: Mapping[str, Sequence[tuple[str, int]]]  # perspective → (word, number of texts with it)
    agreements: Sequence[Agreement]

    def to_text(self) -> str:
        return "\n\n".join(table.to_text() for table in self._tables())

    def to_json(self) -> dict[str, Any]:
        histograms = {name: _histogram(scores).tolist() for name, scores in self.scores.items()}
        return {
            "edits": self.edits,
            "complete": self.complete,
            "histogram_of_scores_0_to_5": histograms,
            "failures": self.failures,
            "words": self.words,
            "agreement": [vars(agreement) for agreement in self.agreements],
        }

    def _tables(self) -> Iterable[TextTable]:
        reasons = sorted({reason for found in self.failures.values() for reason in found})
        heading = ["perspective", "answered", *reasons, "mean", "below 5", *map(str, _LEVELS)]
        rows = [self._row(name, reasons) for name in PERSPECTIVES]
        note = (
            f"{self.complete:,} of {self.edits:,} edits have all three scores. 0 to {BEST:.0f}: edits with that score."
        )
        yield TextTable(heading, rows, notes=[note])
        words = [(name, ", ".join(f"{word} {n:,}" for word, n in self.words[name])) for name in PERSPECTIVES]
        yield TextTable(("perspective", "most frequent words of the feedback, and texts with them"), words)
        if self.agreements:
            yield _agreement_table(self.agreements)

    def _row(self, name: str, reasons: Sequence[str]) -> list[str]:
        scores, failures = np.asarray(self.scores[name]), self.failures[name]
        if not len(scores):
            return [name, "0", *(f"{failures.get(reason, 0):,}" for reason in reasons), *["–"] * (len(_LEVELS) + 2)]
        counts = [len(scores), *(failures.get(reason, 0) for reason in reasons)]
        summary = f"{scores.mean():.2f}", f"{100 * (scores < BEST).mean():.0f} %"
        return [name, *(f"{n:,}" for n in counts), *summary, *(f"{n:,}" for n in _histogram(scores))]


def report_labels(labels: Sequence[Label], ratings: Ratings | None = None, seed: int = 0) -> LabelReport:
    """The report of labels.

    Args:
      ratings: of the same edits, by others; None, or NaN in all three perspectives, for edits without.
      seed: of the bootstrap.
    """
    scores = np.asarray([[np.nan if s is None else s for s in label.scores] for label in labels], float).reshape(-1, 3)
    return LabelReport(
        edits=len(labels),
        complete=sum(label.is_complete for label in labels),
        scores={name: column[~np.isnan(column)].tolist() for name, column in zip(PERSPECTIVES, scores.T, strict=True)},
        failures={name: _reasons(labels, name) for name in PERSPECTIVES},
        words={name: frequent_words(label.feedback[i] for label in labels) for i, name in enumerate(PERSPECTIVES)},
        agreements=[] if ratings is None else list(_agreements(scores, ratings, seed)),
    )


def _reasons(labels: Sequence[Label], perspective: str) -> dict[str, int]:
    found = (failure for label in labels for failure in label.failures if failure.perspective == perspective)
    return dict(Counter(failure.reason for failure in found).most_common())


def frequent_words(texts: Iterable[str | None]) -> list[tuple[str, int]]:
    """The most frequent words and the number of texts with each; equal numbers in alphabetical order."""
    counts: Counter[str] = Counter()
    for text in texts:
        if text is not None and text != NOTHING_FAILED:
            counts.update(set(map(str.lower, _WORD.findall(text))) - set(_STOP_WORDS.split()))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_WORDS]


def _agreements(scores: Ratings, ratings: Ratings, seed: int) -> Iterable[Agreement]:
    for name, judged, rated in zip(PERSPECTIVES, scores.T, ratings.T, strict=True):
        both = ~(np.isnan(judged) | np.isnan(rated))
        if both.sum() > 1:
            a, b = judged[both], rated[both]
            yield Agreement(name, len(a), *_measured(spearman, a, b, seed), *_measured(ordinal_alpha, a, b, seed))


def _measured(
    measure: Callable[..., float], a: np.ndarray, b: np.ndarray, seed: int
) -> tuple[float, tuple[float, float]]:
    """The measure and its interval; a resample without any spread, where it is undefined, counts as 0."""
    resampled = bootstrap_interval(lambda drawn: float(np.nan_to_num(measure(a[drawn], b[drawn]))), len(a), seed)
    return float(measure(a, b)), resampled


def ordinal_alpha(*raters: Float[np.ndarray, " n"]) -> float:
    """Krippendorff's alpha of raters of the same items, for ordinal values; NaN where all values are equal."""
    import krippendorff

    if np.unique(raters).size < 2:  # the library refuses a single value
        return float("nan")
    return float(krippendorff.alpha(np.stack(raters), level_of_measurement="ordinal"))


def _agreement_table(agreements: Sequence[Agreement]) -> TextTable:
    rows = [
        (
            found.perspective,
            f"{found.edits:,}",
            "{:.2f} [{:.2f}, {:.2f}]".format(found.spearman, *found.spearman_interval),
            "{:.2f} [{:.2f}, {:.2f}]".format(found.alpha, *found.alpha_interval),
        )
        for found in agreements
    ]
    heading = ("perspective", "edits rated", "Spearman", "Krippendorff's alpha, ordinal")
    return TextTable(heading, rows, notes=["Agreement with the ratings of the data; 95 % bootstrap intervals."])


def _histogram(scores: Sequence[float]) -> np.ndarray:
    """Number of scores per whole number 0..5; means of repeated answers are rounded."""
    return np.bincount(np.rint(scores).astype(int), minlength=len(_LEVELS))


def draw_label_report(report: LabelReport) -> "Figure":
    """A row with the distribution of scores of each perspective, and below it a row with its most frequent words."""
    figure, panels = new_figure(11, 6.4, len(PERSPECTIVES), rows=2)
    for i, name in enumerate(PERSPECTIVES):
        above, below = panels[i], panels[len(PERSPECTIVES) + i]
        shares = 100 * _histogram(report.scores[name]) / max(1, len(report.scores[name]))
        bars = above.bar(_LEVELS, shares, color=_COLORS[i])
        above.bar_label(bars, fmt="%.0f", fontsize=8, color=INK)
        above.set_title(f"{name}: {len(report.scores[name]):,} scores", loc="left", fontsize=10)
        above.set_xlabel("score")
        words, numbers = zip(*report.words[name][::-1], strict=True) if report.words[name] else ((), ())
        below.barh(range(len(words)), numbers, color=_COLORS[i])
        below.set_yticks(range(len(words)), words)
        below.set_xlabel("texts with the word")
    panels[0].set_ylabel("% of the scores")
    return figure


def add_label_report_arguments(p: ArgumentParser) -> None:
    """The arguments of `launch/label.py report`."""
    p.add_argument("labels", type=Path, help="a file of labels")
    p.add_argument("--data", type=Path, help="the edits, for agreement with the ratings that they have of their own")
    p.add_argument("--store", type=Path, help="the store of the answers, for what they cost")
    add_price_arguments(p)
    p.add_argument("--json", type=local_path, metavar="FILE", help="file for every number")
    p.add_argument("--png", type=png_file, metavar="FILE", help="file for the charts (extra 'plots')")
    add_allow_outside(p)


def run_label_report(a: Namespace) -> None:
    """Prints the report, and writes the files that are given."""
    if a.png:
        require_matplotlib()
    charged = prices(a)  # now: it refuses half of the prices
    labels = read_labels(a.labels)
    ratings = None if a.data is None else own_ratings(open_edits(a.data, allow_outside=a.allow_outside), labels)
    report = report_labels(list(labels.values()), ratings)
    print(report.to_text())
    if a.store:
        with Store(a.store) as store:
            usage = store.usage(store.questions())
        print(f"\n{describe_usage(usage, charged, a.store)}")
    if a.json:
        write_json(report.to_json(), a.json)
    if a.png:
        save_figure(draw_label_report(report), a.png)


def own_ratings(edits: StoredEdits, labels: Mapping[str, Label]) -> Ratings:
    """The scores that the data hold for the labelled edits, in the order of the labels; NaN where they hold none.

    Raises:
      ValueError: none of the labels is of these edits.
    """
    rows = {key: number for number, key in enumerate(edits.keys())}
    if not rows.keys() & labels.keys():
        raise ValueError("none of the labels is of an edit of --data: the keys differ.")
    none = (np.nan,) * len(PERSPECTIVES)
    found = [edits.encoded(rows[key]).scores if key in rows else None for key in labels]
    return np.asarray([none if scores is None else scores for scores in found], float)
