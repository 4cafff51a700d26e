"""AURORA-Bench: preferences between two edits, and ratings of single edits, against the scores of any source.

EditReward's evaluation code (`eval_bench.py`) reads three benchmarks from lists of the same two layouts, so this file
also serves GenAI-Bench pairs and ImagenHub points. Results are in EditReward (arXiv:2509.26346), section 4.2, table 2.

Pairs (`valid_aurora_human_ratings_pairwise.json`; GenAI-Bench: `valid_set2_full.json`) are objects with `prompt`,
`path_src`, `path1`, `path2`, `model1_dim1_score` and `model2_dim1_score`: people prefer the edit with the larger dim1
score, and equal scores are a tie, whether both are good or both bad.

Points are objects with the human `score`, the `model` that made the edit, and its instruction and images:
`prompt`, `input`, `gen` in AURORA (`valid_aurora_human_ratings_pointwise.json`) and `instruction`, `input_path`,
`output_path` in ImagenHub (`valid_imagenhub_processed.json`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Float

from rewardedit_jax.data.paths import inside
from rewardedit_jax.data.records import Instruction
from rewardedit_jax.evaluation import statistics
from rewardedit_jax.evaluation.report import Report, Row, note_repeated, sound_share
from rewardedit_jax.evaluation.reward_models import edits
from rewardedit_jax.evaluation.reward_models.edits import Edit, ScoreSource
from rewardedit_jax.evaluation.reward_models.records import Number, Text, read_records
from rewardedit_jax.listing import list_names

_TITLES = {"aurora": "AURORA points", "imagenhub": "ImagenHub points"}


@dataclass(frozen=True)
class Pair:
    """Two edits of one source; `human` is 1 where people prefer the first, -1 the second, 0 neither."""

    first: Edit
    second: Edit
    human: int


class _PairRecord(msgspec.Struct):
    prompt: Instruction
    path_src: Text
    path1: Text
    path2: Text
    model1_dim1_score: Number
    model2_dim1_score: Number


def read_pairs(file: Path, images: Path | None = None, *, allow_outside: bool = False) -> list[Pair]:
    """The pairs of a JSON file, whose image paths are relative to `images`, by default the directory of the file.

    Paths that lead out of this directory are errors, unless `allow_outside`.
    """
    images = images or file.parent

    def pair(name: str, record: _PairRecord) -> Pair:
        # The key of the image is part of the name: a scorer's error about one edit then says which of the two.
        source, *edited = (
            inside(images, path, allow_outside=allow_outside) for path in (record.path_src, record.path1, record.path2)
        )
        keys = zip(edited, ("path1", "path2"), strict=True)
        first, second = (Edit(source, path, record.prompt, f"{name}, {key}") for path, key in keys)
        return Pair(first, second, int(np.sign(record.model1_dim1_score - record.model2_dim1_score)))

    return read_records(file, _PairRecord, pair)


_PAIRS_COUNTED = "Published: a pair with such an edit is wrong. Sound: it is left out."


def evaluate_pairs(
    pairs: Sequence[Pair], source: ScoreSource, title: str, seed: int = 0, skip_bad: int | float = 0
) -> Report:
    """Accuracies of the overall score on human preferences, of at least two pairs.

    Args:
      skip_bad: the number of edits that may have no score.
    """
    scored = [edit for pair in pairs for edit in (pair.first, pair.second)]
    unscored = edits.Unscored(skip_bad)
    # One list of first and second edits in turn: a scorer encodes the source they share only once.
    scores = edits.score_edits(source, scored, unscored)[:, edits.OVERALL]
    report = measure_pairs(np.array([pair.human for pair in pairs]), scores[::2] - scores[1::2], title, seed)
    # Two pairs are the same in either order of their edits.
    same = [frozenset((pair.first, pair.second)) for pair in pairs]
    preferred = [{1: pair.first, -1: pair.second}.get(pair.human) for pair in pairs]
    repeated = note_repeated(same, preferred, "pairs")
    return report.with_notes(repeated, *unscored.notes(scored, source, _PAIRS_COUNTED))


def measure_pairs(human: statistics.Human, margin: statistics.Margin, title: str, seed: int = 0) -> Report:
    """Accuracies with and without ties, of known margins. `seed` determines the folds and the bootstrap.

    Pairs without a margin (NaN) are wrong in published measures, and left out of sound ones.
    """
    known = ~np.isnan(margin)
    published = statistics.published_accuracy_with_ties(human, margin)
    cross_validated = statistics.cross_validated(human[known], margin[known], seed)
    rows = [
        Row("accuracy with ties", "published", published, f"{len(human)} pairs"),
        sound_share("accuracy with ties", cross_validated, "pairs", seed),
    ]
    # Without ties there is no threshold to tune, so both protocols give the same value where all margins are known.
    if human[known].any():
        decided = statistics.correct_without_ties(human, margin)
        rows.append(Row("accuracy without ties", "published", float(decided.mean()), f"{len(decided)} pairs"))
        decided = statistics.correct_without_ties(human[known], margin[known])
        rows.append(sound_share("accuracy without ties", decided, "pairs", seed))
    values = {
        # In percent, as in table 2; rows hold shares.
        "accuracy_with_ties": {row.protocol: 100 * row.value for row in rows[:2]},
        "accuracy_without_ties": {row.protocol: 100 * row.value for row in rows[2:]},
        "pairs": len(human),
        "ties": int((human == 0).sum()),
        "seed": seed,
    }
    notes = ["Tie threshold: published, tuned on these pairs; sound, tuned on four fifths for the other fifth."]
    return Report(f"{title}: preferred of two edits (%)", rows, notes, values, percent=True)


@dataclass(frozen=True)
class Point:
    """One rated edit. The scale of the ratings does not matter, only their order."""

    edit: Edit
    human: float
    model: str


def _point_record(**keys: str) -> type[msgspec.Struct]:
    # The two lists differ in the names of their keys only.
    texts = [(name, Text) for name in ("source", "edited", "model")]
    fields = [("instruction", Instruction), *texts, ("score", Number)]
    return msgspec.defstruct("_PointRecord", fields, rename=keys)


_POINT_RECORDS = {
    "aurora": _point_record(instruction="prompt", source="input", edited="gen"),
    "imagenhub": _point_record(source="input_path", edited="output_path"),
}


def read_points(file: Path, images: Path | None, benchmark: str, *, allow_outside: bool = False) -> list[Point]:
    """The points of "aurora" or "imagenhub" in a JSON file, whose image paths are as in `read_pairs`."""
    images = images or file.parent

    def point(name: str, record: msgspec.Struct) -> Point:
        source, edited = (inside(images, path, allow_outside=allow_outside) for path in (record.source, record.edited))
        return Point(Edit(source, edited, record.instruction, name), record.score, record.model)

    return read_records(file, _POINT_RECORDS[benchmark], point)


def evaluate_points(
    points: Sequence[Point], source: ScoreSource, benchmark: str, seed: int = 0, skip_bad: int | float = 0
) -> Report:
    """Rank correlation of the overall score with human ratings; `skip_bad` as in `evaluate_pairs`."""
    scored = [point.edit for point in points]
    unscored = edits.Unscored(skip_bad)
    scores = edits.score_edits(source, scored, unscored)[:, edits.OVERALL]
    report = measure_points(points, scores, benchmark, seed)
    # The same edit may be listed for two models: `Edit` compares by images and instruction.
    repeated = note_repeated(scored, [point.human for point in points], "edits")
    return report.with_notes(repeated, *unscored.notes(scored, source, edits.UNSCORED_POINTS))


def measure_points(points: Sequence[Point], scores: Float[np.ndarray, " n"], benchmark: str, seed: int = 0) -> Report:
    """Rank correlations of known scores with human ratings, per model.

    EditReward's code reports the plain mean over models for AURORA, and tanh of it for ImagenHub; a second version for
    ImagenHub compares the edits of one instruction. Edits without a score (NaN) are left out of published measures, and
    have the mean rank in the sound one.
    """
    human, model = np.array([p.human for p in points]), np.array([p.model for p in points])
    known = ~np.isnan(scores)
    per_model = _per_model(human, scores, model, known)
    correlations = list(per_model.values())
    sound = _per_model(human, scores, model)
    items = f"{len(sound)} models, {{}} edits"
    published = {"mean of r": float(np.mean(correlations))}
    if benchmark == "imagenhub":
        # Table 2 has the tanh. The other two are EditReward's `imagenhub_bench_v2`, which returns the last one.
        prompts = [point.edit.instruction for point, k in zip(points, known, strict=True) if k]
        published["tanh of mean r"] = statistics.published_mean(correlations)
        published["r within instructions"] = statistics.per_prompt_spearman(human[known], scores[known], prompts)
        published["r of z-scores, v2"] = statistics.z_scored_spearman(human[known], scores[known], prompts)
    rows = [Row(measure, "published", value, items.format(known.sum())) for measure, value in published.items()]

    def resampled_mean(drawn: np.ndarray) -> float:
        # A model without any drawn edit is not part of this resample's mean.
        return statistics.fisher_mean(list(_per_model(human[drawn], scores[drawn], model[drawn]).values()))

    interval = statistics.bootstrap_interval(resampled_mean, len(human), seed)
    mean = statistics.fisher_mean(list(sound.values()))
    rows.append(Row("Fisher mean of r", "sound", mean, items.format(len(points)), interval))
    # The correlation of a model is undefined where its scores, or its ratings, are constant.
    undefined = [name for name, r in sound.items() if np.isnan(r)]
    notes = ["r: Spearman's correlation over the edits of one model."]
    if undefined:
        notes.append(f"r is undefined, and counts as 0 in sound means, for: {list_names(undefined)}.")
    values = {"per_model": per_model, "undefined": undefined, "edits": len(points), "seed": seed}
    return Report(f"{_TITLES[benchmark]}: rank correlation with ratings", rows, notes, values, percent=False)


def _per_model(
    human: np.ndarray, scores: np.ndarray, model: np.ndarray, known: np.ndarray | bool = True
) -> dict[str, float]:
    of = {str(name): known & (model == name) for name in np.unique(model)}
    return {name: statistics.spearman(scores[edits], human[edits]) for name, edits in of.items()}
