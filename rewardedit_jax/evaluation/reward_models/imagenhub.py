"""ImagenHub, text-guided editing: how people rate edits (EditReward, arXiv:2509.26346, table 2; VIEScore, 2312.14867).

Three public directories are read:
  ratings   *_rater<n>.tsv: uid × models, cells [SC, PQ] (semantic consistency, perceptual quality) of 0, 0.5 or 1
  answers   <model>/SC.json and PQ.json as VIEScore stores a judge's answers: uid → {"score": 0..10}, one or two numbers
  results   ImagenHub_Text-Guided_IE, the edits themselves, for any scorer:
              dataset_lookup.json   uid → {"instruction": text, ...}; a uid is a file name
              input/<uid>           sources
              <model>/<uid>         edits

Spearman's correlation is computed per model over its edits. Table 2 prints 38.21 for GPT-4o and 41.84 between humans.

Edits without a score: the published code leaves them out of the correlations. In sound measures they have the mean rank
(`statistics.spearman`): all edits are in the denominator, and a missing score never pays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from jaxtyping import Float, Int

from rewardedit_jax.data.json_files import read_json, read_text, validate
from rewardedit_jax.data.records import Instruction
from rewardedit_jax.evaluation.report import Note, Report, Row
from rewardedit_jax.evaluation.reward_models import edits
from rewardedit_jax.evaluation.reward_models.edits import Edit, ScoreSource
from rewardedit_jax.evaluation.statistics import bootstrap_interval, fisher_mean, published_mean, spearman
from rewardedit_jax.listing import list_names

_Drawn = Int[np.ndarray, " n"] | slice  # indices of the uids in a resample
_Parts = Float[np.ndarray, "*batch 2"]  # SC, PQ
_Values = Float[np.ndarray, "models uids"]
ASPECTS: dict[str, Callable[[_Parts], Float[np.ndarray, "*batch"]]] = {
    "overall": lambda parts: np.sqrt(parts.prod(-1)),  # VIEScore's geometric mean
    "semantic": lambda parts: parts[..., 0],
    "perceptual": lambda parts: parts[..., 1],
}
SOURCES = "input"  # the directory of results that does not belong to a model
# Aspect → column of a scorer's scores: semantic consistency is following.
_COLUMNS = {"overall": edits.OVERALL, "semantic": 0, "perceptual": 1}
_UNPUBLISHED = "Imagic"  # rated, but not part of VIEScore's and EditReward's figures
_Level = Annotated[float, msgspec.Meta(ge=0, le=1, multiple_of=0.5)]


@dataclass(frozen=True, eq=False)
class Ratings:
    """The ratings of every edit by every rater."""

    models: tuple[str, ...]
    uids: tuple[str, ...]
    values: Float[np.ndarray, "raters models uids 2"]  # SC, PQ: 0, 0.5 or 1
    left_out: tuple[str, ...]  # rated models that published results leave out

    def mean(self, aspect: str, leave_out: int | None = None) -> _Values:
        """Mean rating of an aspect over the raters, without the rater `leave_out`."""
        # "overall" is the mean of the raters' overall ratings, not that of their mean SC and PQ.
        rated = ASPECTS[aspect](self.values)
        rated = rated if leave_out is None else np.delete(rated, leave_out, axis=0)
        # Means that differ only by the order of summation must be ties, so they are rounded.
        return rated.mean(0).round(9)


def read_ratings(directory: Path) -> Ratings:
    """The ratings of all `*_rater*.tsv` in a directory, without the model that published results leave out."""
    # Two raters at least: the human ceiling compares each with the mean of the others.
    files = sorted(directory.glob("[!.]*_rater*.tsv"))
    if len(files) < 2:
        raise FileNotFoundError(f"{directory} has {len(files)} files *_rater*.tsv; expected at least 2")
    raters = [_read_rater(file) for file in files]
    first = raters[0]
    # uids and models are compared as sets: rows and columns may be in another order.
    for file, rater in zip(files, raters, strict=True):
        _check_same(first.keys(), rater.keys(), file, "uids")
        _check_same(first[next(iter(first))], rater[next(iter(rater))], file, "models")
    rated = next(iter(first.values()))
    models = tuple(model for model in rated if model != _UNPUBLISHED)
    values = [[[rater[uid][model] for uid in first] for model in models] for rater in raters]
    return Ratings(models, tuple(first), np.asarray(values, np.float64), tuple(rated.keys() - set(models)))


def _read_rater(file: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """uid → model → [SC, PQ]."""
    # Not splitlines(), which would also split cells at U+2028, U+0085 and others.
    rows = [line.removesuffix("\r") for line in read_text(file).split("\n")]
    lines = [row.split("\t") for row in rows if row.strip()]
    if len(lines) < 2 or len(lines[0]) < 2 or lines[0][0] != "uid":
        raise ValueError(f"{file} is not a table of ratings; expected a first line of uid and models, tab-separated")
    heading, rater = lines[0], {}
    # Both name files: of edits, and of a judge's answers.
    if paths := [name for name in (*heading[1:], *(uid for uid, *_ in lines[1:])) if not _is_file_name(name)]:
        raise ValueError(f"{file}: expected names of models and files, without directories; got {list_names(paths)}")
    for uid, *cells in lines[1:]:
        if uid in rater or len(cells) != len(heading) - 1:
            fault = "occurs twice" if uid in rater else f"has {len(cells)} ratings for {len(heading) - 1} models"
            raise ValueError(f"{file}: {uid} {fault}")
        rater[uid] = {m: _cell(cell, f"{file}, {uid}, {m}") for m, cell in zip(heading[1:], cells, strict=True)}
    return rater


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and not {*name} & {*"/\\\0"}


def _cell(text: str, name: str) -> tuple[float, float]:
    try:
        return msgspec.json.decode(text, type=tuple[_Level, _Level])
    except msgspec.DecodeError as error:
        raise ValueError(f"{name}: the rating is {text!r}; expected [SC, PQ], each 0, 0.5 or 1") from error


def _check_same(expected, found, file: Path, what: str) -> None:
    """Raises a ValueError that counts and lists what `found` lacks or has beyond `expected`."""
    keys = {"missing": [k for k in expected if k not in found], "not rated": [k for k in found if k not in expected]}
    if faults := [f"{len(of)} are {fault} ({list_names(of)})" for fault, of in keys.items() if of]:
        raise ValueError(f"{file}: of {len(expected)} {what}, {'; '.join(faults)}")


def judged_aspects(answers: Float[np.ndarray, "models uids 2"]) -> dict[str, _Values]:
    """A judge's answers by aspect."""
    return {aspect: combine(answers) for aspect, combine in ASPECTS.items()}


class _Lookup(msgspec.Struct):
    instruction: Instruction


def rated_edits(results: Path, ratings: Ratings) -> list[Edit]:
    """The rated edits in the directory of results, model by model, in the order of the ratings."""
    file = results / "dataset_lookup.json"
    lookup = read_json(file, dict[str, Any])
    entries, faults = validate([(uid, lookup.get(uid)) for uid in ratings.uids], _Lookup)
    if faults:
        count = f"{len(faults)} of {len(ratings.uids)} rated uids"
        raise ValueError(f"{file} has no instruction for {count}: {list_names(faults, '; ')}")
    return [
        Edit(results / SOURCES / uid, results / model / uid, entry.instruction, f"{model}, {uid}")
        for model in ratings.models
        for _, uid, entry in entries
    ]


def scored_aspects(scores: Float[np.ndarray, "edits 3"], ratings: Ratings) -> dict[str, _Values]:
    """The scores of `rated_edits` by aspect."""
    shape = len(ratings.models), len(ratings.uids)
    return {aspect: scores[:, column].reshape(shape) for aspect, column in _COLUMNS.items()}


def evaluate_edits(
    rated: Sequence[Edit], ratings: Ratings, source: ScoreSource, seed: int = 0, skip_bad: int | float = 0
) -> Report:
    """Correlations of a source's scores of the `rated_edits`, of which `skip_bad` may have no score."""
    unscored = edits.Unscored(skip_bad)
    scores = edits.score_edits(source, rated, unscored)
    report = evaluate_ratings(ratings, scored_aspects(scores, ratings), seed)
    return report.with_notes(*unscored.notes(rated, source, edits.UNSCORED_POINTS))


def note_unrated(directory: Path, ratings: Ratings, besides: Sequence[str] = ()) -> Note:
    """Note about a directory's models that nobody rated; `besides` and hidden subdirectories are not models."""
    known = {*ratings.models, *ratings.left_out, *besides}
    names = sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    unrated = [name for name in names if name not in known]
    note = f"Not evaluated, as nobody rated them: {list_names(unrated)}."
    return ([note], {"unrated": unrated}) if unrated else ([], {})


def evaluate_ratings(
    ratings: Ratings, scores: Mapping[str, _Values], seed: int = 0, published: Mapping[str, _Values] | None = None
) -> Report:
    """Correlations of scores, by aspect, with the mean rater, and of each rater with the mean of the others.

    Args:
      scores: NaN where an edit has none.
      published: the scores of published measures, where they differ.
    """
    published = published or scores
    # As in VIEScore's notebook, an edit without one of the scores is left out of all aspects.
    known = ~np.isnan(published["overall"])
    values: dict[str, Any] = {
        aspect: _measure(ratings, aspect, of, np.where(known, published[aspect], np.nan), seed)
        for aspect, of in scores.items()
    }
    items = f"{len(ratings.models)} models × {len(ratings.uids)} edits"
    answered = items if known.all() else f"{known.sum()} of {items}"
    rows = [row for aspect, found in values.items() for row in _rows(aspect, found, items, answered)]
    constant = sorted(f"{aspect} of {model}" for aspect, found in values.items() for model in found["undefined"])
    notes = [
        "r: Spearman's correlation of one model's edits with the mean of all raters; human: of each rater with the "
        "mean of the others.",
        "Published human figures take tanh of the mean over raters, then tanh of its mean over models.",
        *([f"Left out, as published: {list_names(ratings.left_out)}."] if ratings.left_out else []),
        *([f"r is undefined, and counts as 0 in sound means, for: {list_names(constant)}."] if constant else []),
    ]
    values |= {"models": list(ratings.models), "edits": len(ratings.uids), "seed": seed}
    return Report("ImagenHub, text-guided editing: rank correlation with raters", rows, notes, values, percent=False)


def _rows(aspect: str, found: Mapping[str, Any], items: str, answered: str) -> list[Row]:
    human = found["human"]
    return [
        Row(f"{aspect}: mean of r", "published", found["mean_spearman"], answered),
        Row(f"{aspect}: tanh of mean r", "published", found["tanh_mean"], answered),
        Row(f"{aspect}: Fisher mean of r", "sound", found["fisher_mean"], items, found["interval"]),
        Row(f"{aspect}: human, tanh twice", "published", human["tanh_mean"], items),
        Row(f"{aspect}: human, Fisher mean", "sound", human["fisher_mean"], f"{items}, by rater", human["interval"]),
    ]


def _measure(ratings: Ratings, aspect: str, scores: _Values, published: _Values, seed: int) -> dict[str, Any]:
    human = ratings.mean(aspect)
    known = ~np.isnan(published)
    pairs = zip(published, human, known, strict=True)
    per_model = dict(zip(ratings.models, (spearman(x[k], y[k]) for x, y, k in pairs), strict=True))
    sound = _correlations(scores, human)

    def resampled_mean(drawn: _Drawn) -> float:
        # The same uids for all models, as their scores on one source are not independent.
        return fisher_mean(_correlations(scores, human, drawn))

    return {
        "mean_spearman": float(np.mean(list(per_model.values()))),
        "tanh_mean": published_mean(list(per_model.values())),
        "fisher_mean": fisher_mean(sound),
        "interval": bootstrap_interval(resampled_mean, len(ratings.uids), seed),
        "per_model": per_model,
        "undefined": [model for model, r in zip(ratings.models, sound, strict=True) if np.isnan(r)],
        "human": _human_ceiling(ratings, aspect, seed),
    }


def _correlations(a: _Values, b: _Values, drawn: _Drawn = slice(None)) -> list[float]:
    """Spearman's correlation of each model over the drawn uids."""
    return [spearman(x[drawn], y[drawn]) for x, y in zip(a, b, strict=True)]


def _human_ceiling(ratings: Ratings, aspect: str, seed: int) -> dict[str, Any]:
    """Correlation of each rater with the mean of the others: table 2's "Human-to-Human"."""
    raters = ASPECTS[aspect](ratings.values)
    others = [ratings.mean(aspect, leave_out=i) for i in range(len(raters))]

    def by_rater(drawn: _Drawn = slice(None)) -> list[list[float]]:
        return [_correlations(*pair, drawn) for pair in zip(raters, others, strict=True)]

    # VIEScore's notebook takes tanh of the mean over raters per model, then of the mean over models.
    published = {m: published_mean(rs) for m, rs in zip(ratings.models, zip(*by_rater(), strict=True), strict=True)}
    return {
        "tanh_mean": published_mean(list(published.values())),
        "fisher_mean": fisher_mean(np.ravel(by_rater())),
        # Wide where few edits of a model have a rating above 0: in some resamples the raters agree perfectly on them,
        # and Fisher's transform gives such correlations much weight.
        "interval": bootstrap_interval(lambda at: fisher_mean(np.ravel(by_rater(at))), len(ratings.uids), seed),
        "per_model_tanh_mean": published,
    }
