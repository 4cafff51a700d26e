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

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.evaluation import statistics
from rewardedit_jax.evaluation.report import Report, Row, listed, note_repeated, sound_share
from rewardedit_jax.evaluation.reward_models import edits
from rewardedit_jax.evaluation.reward_models.edits import Edit, Number, ScoreSource, Text

_TITLES = {"aurora": "AURORA points", "imagenhub": "ImagenHub points"}


@dataclass(frozen=True)
class Pair:
    """Two edits of one source; `human` is 1 where people prefer the first, -1 the second, 0 neither."""

    first: Edit
    second: Edit
    human: int


class _PairRecord(msgspec.Struct):
    prompt: Text
    path_src: Text
    path1: Text
    path2: Text
    model1_dim1_score: Number
    model2_dim1_score: Number


def read_pairs(file: Path, images: Path | None = None) -> list[Pair]:
    """The pairs of a JSON file, whose image paths are relative to `images`, by default the directory of the file."""
    images, pairs = images or file.parent, []
    for i, record in enumerate(read_json(file, edits.Records[_PairRecord])):
        # The key of the image is part of the name: a scorer's error about one edit then says which of the two.
        first, second = (
            Edit(images / record.path_src, images / getattr(record, key), record.prompt, f"{file}, item {i}, {key}")
            for key in ("path1", "path2")
        )
        pairs.append(Pair(first, second, int(np.sign(record.model1_dim1_score - record.model2_dim1_score))))
    return pairs


def evaluate_pairs(pairs: Sequence[Pair], source: ScoreSource, title: str, seed: int = 0) -> Report:
    """Accuracies of the overall score on human preferences, of at least two pairs."""
    scored = [edit for pair in pairs for edit in (pair.first, pair.second)]
    # One list of first and second edits in turn: a scorer encodes the source they share only once.
    scores = edits.score_edits(source, scored)[:, edits.OVERALL]
    report = measure_pairs(np.array([pair.human for pair in pairs]), scores[::2] - scores[1::2], title, seed)
    # Two pairs are the same in either order of their edits.
    same = [frozenset((pair.first, pair.second)) for pair in pairs]
    preferred = [{1: pair.first, -1: pair.second}.get(pair.human) for pair in pairs]
    return report.with_notes(note_repeated(same, preferred, "pairs"), edits.note_transparent(source, scored))


def measure_pairs(human: statistics.Human, margin: statistics.Margin, title: str, seed: int = 0) -> Report:
    """Accuracies with and without ties, of known margins. `seed` determines the folds and the bootstrap."""
    published = statistics.published_accuracy_with_ties(human, margin)
    rows = [
        Row("accuracy with ties", "published", published, f"{len(human)} pairs"),
        sound_share("accuracy with ties", statistics.cross_validated(human, margin, seed), "pairs", seed),
    ]
    # Without ties there is no threshold to tune, so both protocols give the same value.
    if human.any():
        decided = statistics.correct_without_ties(human, margin)
        rows.append(Row("accuracy without ties", "published", float(decided.mean()), f"{len(decided)} pairs"))
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
    texts = [(name, Text) for name in ("instruction", "source", "edited", "model")]
    return msgspec.defstruct("_PointRecord", [*texts, ("score", Number)], rename=keys)


_POINT_RECORDS = {
    "aurora": _point_record(instruction="prompt", source="input", edited="gen"),
    "imagenhub": _point_record(source="input_path", edited="output_path"),
}


def read_points(file: Path, images: Path | None, benchmark: str) -> list[Point]:
    """The points of "aurora" or "imagenhub" in a JSON file, whose image paths are relative as in `read_pairs`."""
    images = images or file.parent
    return [
        Point(Edit(images / r.source, images / r.edited, r.instruction, f"{file}, item {i}"), r.score, r.model)
        for i, r in enumerate(read_json(file, edits.Records[_POINT_RECORDS[benchmark]]))
    ]


def evaluate_points(points: Sequence[Point], source: ScoreSource, benchmark: str, seed: int = 0) -> Report:
    """Rank correlation of the overall score with human ratings."""
    scored = [point.edit for point in points]
    report = measure_points(points, edits.score_edits(source, scored)[:, edits.OVERALL], benchmark, seed)
    # The same edit may be listed for two models: `Edit` compares by images and instruction.
    repeated = note_repeated(scored, [point.human for point in points], "edits")
    return report.with_notes(repeated, edits.note_transparent(source, scored))


def measure_points(points: Sequence[Point], scores: Float[np.ndarray, " n"], benchmark: str, seed: int = 0) -> Report:
    """Rank correlations of known scores with human ratings, per model.

    EditReward's code reports the plain mean over models for AURORA, and tanh of it for ImagenHub; a second version for
    ImagenHub compares the edits of one instruction.
    """
    human, model = np.array([p.human for p in points]), np.array([p.model for p in points])
    per_model = _per_model(human, scores, model)
    correlations = list(per_model.values())
    items = f"{len(per_model)} models, {len(points)} edits"
    published = {"mean of r": float(np.mean(correlations))}
    if benchmark == "imagenhub":
        # Table 2 has the tanh. The other two are EditReward's `imagenhub_bench_v2`, which returns the last one.
        prompts = [point.edit.instruction for point in points]
        published["tanh of mean r"] = statistics.published_mean(correlations)
        published["r within instructions"] = statistics.per_prompt_spearman(human, scores, prompts)
        published["r of z-scores, v2"] = statistics.z_scored_spearman(human, scores, prompts)
    rows = [Row(measure, "published", value, items) for measure, value in published.items()]

    def resampled_mean(drawn: np.ndarray) -> float:
        # A model without any drawn edit is not part of this resample's mean.
        return statistics.fisher_mean(list(_per_model(human[drawn], scores[drawn], model[drawn]).values()))

    interval = statistics.bootstrap_interval(resampled_mean, len(human), seed)
    rows.append(Row("Fisher mean of r", "sound", statistics.fisher_mean(correlations), items, interval))
    # The correlation of a model is undefined where its scores, or its ratings, are constant.
    undefined = [name for name, r in per_model.items() if np.isnan(r)]
    notes = ["r: Spearman's correlation over the edits of one model."]
    if undefined:
        notes.append(f"r is undefined, and counts as 0 in sound means, for: {listed(undefined)}.")
    values = {"per_model": per_model, "undefined": undefined, "edits": len(points), "seed": seed}
    return Report(f"{_TITLES[benchmark]}: rank correlation with ratings", rows, notes, values, percent=False)


def _per_model(human: np.ndarray, scores: np.ndarray, model: np.ndarray) -> dict[str, float]:
    return {str(m): statistics.spearman(scores[model == m], human[model == m]) for m in np.unique(model)}
