"""ImagenHub, text-guided editing: ratings of three raters against the answers of a judge, edit by edit.

Ratings: `*_rater<n>.tsv`, uid × models, cells `[SC, PQ]` (semantic consistency, perceptual quality) of 0, 0.5 or 1.
Answers: `<model>/SC.json` and `PQ.json` as VIEScore (arXiv 2312.14867) stores them, uid → {"score": 0..10, one or two
numbers}, of which the smaller counts. Spearman's correlation is taken per model over its edits.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rewardedit_jax.evaluation.report import Report, Row
from rewardedit_jax.evaluation.reward_models.bootstrap import bootstrap_interval
from rewardedit_jax.evaluation.reward_models.correlation import fisher_mean, published_mean, spearman
from rewardedit_jax.evaluation.reward_models.json_records import is_number, listed, read_json

Pair = Float[np.ndarray, "*batch 2"]  # SC, PQ
ASPECTS: Mapping[str, Callable[[Pair], Float[np.ndarray, "*batch"]]] = MappingProxyType(
    {
        "overall": lambda pair: np.sqrt(pair.prod(-1)),
        "semantic": lambda pair: pair[..., 0],
        "perceptual": lambda pair: pair[..., 1],
    }
)
_NOT_ASKED = "Imagic"  # rated, but in none of the published correlations
_PARTS = ("SC", "PQ")
_EXACT = 9  # decimals: what differs only in the order of summing raters is a tie
_LEVELS = (0, 0.5, 1)


@dataclass(frozen=True, eq=False)
class Ratings:
    """What every rater said of every edit."""

    models: tuple[str, ...]
    uids: tuple[str, ...]
    values: Float[np.ndarray, "raters models uids 2"]  # 0, 0.5 or 1
    left_out: tuple[str, ...]  # models that were rated too

    def mean(self, aspect: str, leave_out: int | None = None) -> Float[np.ndarray, "models uids"]:
        """Over raters; for "overall", of their own overall ratings."""
        told = ASPECTS[aspect](self.values)
        return (told if leave_out is None else np.delete(told, leave_out, axis=0)).mean(0).round(_EXACT)


def read_ratings(directory: Path) -> Ratings:
    """The ratings of all `*_rater*.tsv` in a directory, without the model that published results leave out.

    Raises:
      FileNotFoundError, ValueError: if there are fewer than two files, they are not of the same models and uids, or a
        rating is none.
    """
    files = sorted(directory.glob("*_rater*.tsv"))
    if len(files) < 2:
        raise FileNotFoundError(f"{directory} holds {len(files)} files *_rater*.tsv; two raters are the least.")
    raters = [_read_rater(file) for file in files]
    first = raters[0]
    for file, rater in zip(files, raters, strict=True):
        _expect_same(first.keys(), rater.keys(), file, "uids")
        _expect_same(first[next(iter(first))], rater[next(iter(rater))], file, "models")
    rated = tuple(next(iter(first.values())))
    models = tuple(model for model in rated if model != _NOT_ASKED)
    values = [[[rater[uid][model] for uid in first] for model in models] for rater in raters]
    return Ratings(models, tuple(first), np.asarray(values, np.float64), tuple(set(rated) - set(models)))


def _read_rater(file: Path) -> dict[str, dict[str, list[float]]]:
    """uid → model → [SC, PQ]."""
    # Reading turns "\r\n" into "\n"; splitlines() would also break cells at U+2028, U+0085 and others.
    lines = [line.split("\t") for line in file.read_text("utf-8").split("\n") if line.strip()]
    if len(lines) < 2 or len(lines[0]) < 2 or lines[0][0] != "uid":
        raise ValueError(f"{file} is no table of ratings: its first line should be uid and the models, tab-separated.")
    heading, rater = lines[0], {}
    for uid, *cells in lines[1:]:
        if uid in rater or len(cells) != len(heading) - 1:
            fault = "occurs twice" if uid in rater else f"has {len(cells)} ratings for {len(heading) - 1} models"
            raise ValueError(f"{file}: {uid} {fault}.")
        rater[uid] = {m: _cell(cell, f"{file}, {uid}, {m}") for m, cell in zip(heading[1:], cells, strict=True)}
    return rater


def _cell(text: str, name: str) -> list[float]:
    try:
        pair = json.loads(text)
    except ValueError:
        pair = None
    if not isinstance(pair, list) or len(pair) != 2 or not all(is_number(v) and v in _LEVELS for v in pair):
        raise ValueError(f"{name}: the rating is {text!r}; it should be [SC, PQ], each of them 0, 0.5 or 1.")
    return [float(value) for value in pair]


def _expect_same(known, found, file: Path, what: str) -> None:
    lacking, unknown = [k for k in known if k not in found], [k for k in found if k not in known]
    if lacking or unknown:
        told = [f"{len(lacking)} are missing ({listed(lacking)})"] if lacking else []
        told += [f"{len(unknown)} are not rated ({listed(unknown)})"] if unknown else []
        raise ValueError(f"{file}: of {len(known)} {what}, {'; '.join(told)}.")


def read_answers(directory: Path, ratings: Ratings) -> Float[np.ndarray, "models uids 2"]:
    """A judge's answers 0..10 about the rated edits: the smaller SC, the smaller PQ.

    Raises:
      FileNotFoundError, ValueError: if a model's folder or file is missing, the uids are not those rated (counted and
        listed), or a score is none.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}; it should hold <model>/SC.json and PQ.json.")
    missing = [model for model in ratings.models if not (directory / model).is_dir()]
    if missing:
        raise FileNotFoundError(f"{directory} has no folder for {listed(missing)}; every rated model is measured.")
    answers = [
        [_read_part(directory / model / f"{part}.json", ratings.uids) for part in _PARTS] for model in ratings.models
    ]
    return np.moveaxis(np.asarray(answers, np.float64), 1, -1)


def _read_part(file: Path, uids: Sequence[str]) -> list[float]:
    answers = read_json(file, 'uid → {"score": [0..10, ...]}')
    if not isinstance(answers, dict):
        raise ValueError(f'{file} should hold an object, uid → {{"score": [0..10, ...]}}.')
    _expect_same(uids, answers, file, "uids")
    return [_smaller(answers[uid], f"{file}, {uid}") for uid in uids]


def _smaller(answer: Any, name: str) -> float:
    score = answer.get("score") if isinstance(answer, dict) else None
    scores = score if isinstance(score, list) else [score]
    if len(scores) not in (1, 2) or not all(is_number(value) and 0 <= value <= 10 for value in scores):
        raise ValueError(f"{name}: the score is {score!r}; it should be one or two numbers from 0 to 10.")
    return float(min(scores))


def note_unrated(
    directory: Path, ratings: Ratings, besides: Sequence[str] = ()
) -> tuple[list[str], dict[str, list[str]]]:
    """Note and value of a report: the models of a directory that nobody rated. Empty if there are none.

    Args:
      directory: with a folder for each model.
      besides: folders in it that are no model's; hidden ones never are.
    """
    known = {*ratings.models, *ratings.left_out, *besides}
    folders = sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    unrated = [name for name in folders if name not in known]
    note = f"Not measured, for nobody rated them: {listed(unrated)}."
    return ([note], {"unrated": unrated}) if unrated else ([], {})


def judged_aspects(answers: Float[np.ndarray, "models uids 2"]) -> dict[str, Float[np.ndarray, "models uids"]]:
    """What a judge's answers say of each aspect."""
    return {aspect: of(answers) for aspect, of in ASPECTS.items()}


def evaluate_ratings(ratings: Ratings, judged: Mapping[str, Float[np.ndarray, "models uids"]], seed: int = 0) -> Report:
    """Correlations of a judge, or of a scorer, with the mean rater, and of each rater with the mean of the others.

    Args:
      judged: aspect → what is said of every edit; a scorer's overall, following and quality are the aspects "overall",
        "semantic" and "perceptual".
      seed: of the bootstrap over uids, which are the same for all models.
    """
    values = {aspect: _measure(ratings, aspect, said, seed) for aspect, said in judged.items()}
    of = f"{len(ratings.models)} models × {len(ratings.uids)} edits"
    rows = []
    for aspect, told in values.items():
        human = told["human"]
        rows += [
            Row(f"{aspect}: mean of r", "published", told["mean_spearman"], of),
            Row(f"{aspect}: tanh of mean r", "published", told["tanh_mean"], of),
            Row(f"{aspect}: Fisher mean of r", "sound", told["fisher_mean"], of, told["interval"]),
            Row(f"{aspect}: human, tanh twice", "published", human["tanh_mean"], of),
            Row(f"{aspect}: human, Fisher mean", "sound", human["fisher_mean"], f"{of}, by rater", human["interval"]),
        ]
    constant = {f"{aspect} of {model}" for aspect, told in values.items() for model in told["undefined"]}
    notes = [
        "r: Spearman's correlation of one model's edits with the mean of all raters; human: of each rater with the "
        "mean of the others.",
        "Published human figures take tanh of the mean over raters, then tanh of its mean over models.",
        *([f"Left out, as published: {listed(ratings.left_out)}."] if ratings.left_out else []),
        *([f"r is not defined, and counts as 0 in sound means: {listed(sorted(constant))}."] if constant else []),
    ]
    values |= {"models": list(ratings.models), "edits": len(ratings.uids), "seed": seed}
    return Report("ImagenHub, text-guided editing: rank correlation with raters", rows, notes, values, percent=False)


def _measure(ratings: Ratings, aspect: str, said: Float[np.ndarray, "models uids"], seed: int) -> dict[str, Any]:
    human = ratings.mean(aspect)

    def per_model(chosen: Int[np.ndarray, " n"] | slice = slice(None)) -> list[float]:
        return [spearman(a[chosen], b[chosen]) for a, b in zip(said, human, strict=True)]

    told = dict(zip(ratings.models, per_model(), strict=True))
    return {
        "mean_spearman": float(np.mean(list(told.values()))),
        "tanh_mean": published_mean(list(told.values())),
        "fisher_mean": fisher_mean(list(told.values())),
        "interval": bootstrap_interval(lambda chosen: fisher_mean(per_model(chosen)), len(ratings.uids), seed),
        "per_model": told,
        "undefined": [model for model, r in told.items() if np.isnan(r)],
        "human": _human(ratings, aspect, seed),
    }


def _human(ratings: Ratings, aspect: str, seed: int) -> dict[str, Any]:
    """How well each rater does at what is asked of the judge: the ceiling.

    Its interval is wide where a few edits of a model have all that it was given: some draws leave raters in full
    agreement there, which Fisher's transform makes much of.
    """
    raters = ASPECTS[aspect](ratings.values)
    others = [ratings.mean(aspect, leave_out=i) for i in range(len(raters))]

    def of_rater(chosen: Int[np.ndarray, " n"] | slice = slice(None)) -> list[list[float]]:
        return [
            [spearman(a[chosen], b[chosen]) for a, b in zip(*pair, strict=True)]
            for pair in zip(raters, others, strict=True)
        ]

    told = of_rater()
    published = {m: published_mean(rs) for m, rs in zip(ratings.models, zip(*told, strict=True), strict=True)}
    return {
        "tanh_mean": published_mean(list(published.values())),
        "fisher_mean": fisher_mean(np.ravel(told)),
        "interval": bootstrap_interval(lambda at: fisher_mean(np.ravel(of_rater(at))), len(ratings.uids), seed),
        "per_model_tanh_mean": published,
    }
