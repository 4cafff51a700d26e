"""Metrics of pixels in the shapes world: against the ideal edit (table 2), and beside the oracle's scores (table 7).

Multi-Reward as Condition (arXiv:2411.04713) compares edits with the targets of MagicBrush's test set, and in appendix
C.1 uses existing metrics in place of the judge: CLIP similarity and FID. Their networks know photographs, not pictures
of 32 pixels: here all metrics are of pixels.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from rewardedit_jax.evaluation.experiments.experiment import Results as ResultFiles
from rewardedit_jax.evaluation.experiments.table import Estimate, Key, Line, Samples, Table, key_title, make_table
from rewardedit_jax.evaluation.metrics import pixels
from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.evaluation.statistics import bootstrap_interval, spearman
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.asked import IN_TABLE
from rewardedit_jax.shapes.comparison_report import Results, draw_pictures, grid_of, load_results
from rewardedit_jax.shapes.editor_benchmark import BASELINE, NO_REWARD, held_out_scenes
from rewardedit_jax.shapes.examples import ShapesExample

Pictures = UInt8[np.ndarray, "n h w 3"]
Values = Float[np.ndarray, "seeds n"]

_MOST_DB = 60.0  # of equal pictures, whose PSNR is infinite
_BOOTSTRAP_SEED = 0


def _psnr(edited: Pictures, reference: Pictures) -> Float[np.ndarray, " n"]:
    return np.minimum(pixels.psnr(edited, reference), _MOST_DB)


# Name → (the metric, 1 where more is better and -1 where less is).
METRICS: dict[str, tuple[Callable[[Pictures, Pictures], Float[np.ndarray, " n"]], int]] = {
    "L1": (pixels.l1, -1),
    "L2": (pixels.l2, -1),
    "PSNR": (_psnr, 1),
    "SSIM": (pixels.ssim, 1),
}


def metrics() -> list[str]:
    """The metrics that can be computed: SSIM needs scikit-image."""
    return [name for name in METRICS if name != "SSIM" or importlib.util.find_spec("skimage")]


def report_pixels(workdir: Path, results: ResultFiles, count: int) -> tuple[Table, list[Path]]:
    """Table 2: metrics of the edits against the ideal edits, and grid.png."""
    loaded, scenes = load_results(results), held_out_scenes(count)
    ideal = _stack(scenes, "ideal")
    samples = {
        key: {name: Samples.of(_measure(name, found, ideal)) for name in metrics()}
        for key, found in _pictures(loaded).items()
    }
    fixed = {
        name: {metric: Samples.of(_measure(metric, _stack(scenes, field)[None], ideal)) for metric in metrics()}
        for name, field in (("source, unchanged", "source"), ("imperfect edits", "edited"))
    }
    table = make_table(samples, (BASELINE, NO_REWARD), fixed).with_notes(
        f"Against the ideal edits of {count} held-out scenes. L1 and L2 (mean squared difference): 0..1, less is "
        f"better. PSNR in dB, {_MOST_DB:.0f} where pictures are equal, and SSIM: more is better.",
        *_missing_note(),
    )
    return replace(table, spec="#.3g"), draw_pictures(workdir, grid_of(loaded, scenes))


def report_existing_metrics(workdir: Path, results: ResultFiles, count: int) -> tuple[Table, list[Path]]:
    """Table 7: how the metrics order the edits of all arms and rewards, beside the oracle; and grid.png."""
    loaded, scenes = load_results(results), held_out_scenes(count)
    shown = _pictures(loaded)
    scores = {
        (arm, asked): np.stack([result.scores[asked] for result in loaded[arm]]) for arm, asked in shown
    }  # (arm, asked) → [seeds, scenes, 3]
    found = {
        f"{name} to the {field}": {
            key: METRICS[name][1] * _measure(name, of, _stack(scenes, field)) for key, of in shown.items()
        }
        for field in ("source", "ideal")
        for name in metrics()
    }
    lines = [Line(metric, "", _agreement(of, scores)) for metric, of in found.items()]
    means = _mean_table(found, scores)
    table = Table(tuple(lines), further=(means,)).with_notes(
        f"Spearman correlation of a metric with the oracle's scores, over the edits of {count} held-out scenes by all "
        "arms and rewards below; metrics are turned so that more is better. Intervals are over scenes.",
        "To the source: what a metric without the ideal edit can see, as CLIP similarity and FID do in the paper.",
        *_missing_note(),
        means={metric: {key_title(key): float(v.mean()) for key, v in of.items()} for metric, of in found.items()},
    )
    return table, draw_pictures(workdir, grid_of(loaded, scenes))


def _pictures(loaded: Results) -> dict[Key, UInt8[np.ndarray, "seeds n h w 3"]]:
    """(arm, asked) → pictures of all seeds."""
    return {
        (arm, asked): np.stack([result.pictures[asked] for result in found])
        for arm, found in loaded.items()
        for asked in (NO_REWARD, *IN_TABLE)
        if asked in found[0].pictures
    }


def _stack(scenes: Sequence[ShapesExample], field: str) -> Pictures:
    return np.stack([getattr(scene, field) for scene in scenes])


def _measure(name: str, pictures: UInt8[np.ndarray, "seeds n h w 3"], reference: Pictures) -> Values:
    return np.stack([METRICS[name][0](of_seed, reference) for of_seed in pictures])


def _agreement(metric: Mapping[Key, Values], scores: Mapping[Key, np.ndarray]) -> dict[str, Estimate]:
    """Perspective → Spearman correlation over the scenes of all keys and seeds."""
    seeds = max(len(values) for values in metric.values())
    # [keys, seeds, scenes]: one seed stands for all, where nothing was trained.
    found, judged = (
        np.stack([np.broadcast_to(of[key], (seeds, *of[key].shape[1:])) for key in metric]) for of in (metric, scores)
    )
    return {name: _correlation(found, judged[..., i]) for i, name in enumerate(PERSPECTIVES)}


def _correlation(a: Float[np.ndarray, "keys seeds scenes"], b: Float[np.ndarray, "keys seeds scenes"]) -> Estimate:
    per_seed = tuple(spearman(a[:, seed].ravel(), b[:, seed].ravel()) for seed in range(a.shape[1]))
    # Whole scenes are drawn: the edits of one scene are not independent.
    interval = bootstrap_interval(partial(_drawn, a, b), a.shape[2], _BOOTSTRAP_SEED)
    return Estimate(float(np.mean(per_seed)), interval, per_seed)


def _drawn(a: np.ndarray, b: np.ndarray, scenes: np.ndarray) -> float:
    return float(np.nan_to_num(spearman(a[..., scenes].ravel(), b[..., scenes].ravel())))


def _mean_table(found: Mapping[str, Mapping[Key, Values]], scores: Mapping[Key, np.ndarray]) -> TextTable:
    """The mean of each metric and score, by arm: the metrics' order of the arms beside the oracle's."""
    columns = {metric: {key: values.mean() for key, values in of.items()} for metric, of in found.items()}
    columns |= {name: {key: of[..., i].mean() for key, of in scores.items()} for i, name in enumerate(PERSPECTIVES)}
    rows = [[key_title(key), *(_ranked(column, key) for column in columns.values())] for key in scores]
    note = "Means by arm and reward; in brackets, the rank among them. Metrics are turned so that more is better."
    return TextTable(["arm", *columns], rows, notes=[note])


def _ranked(column: Mapping[Key, float], key: Key) -> str:
    return f"{column[key]:.3f} ({1 + sum(value > column[key] for value in column.values())})"


def _missing_note() -> list[str]:
    missing = [name for name in METRICS if name not in metrics()]
    return [f"{', '.join(missing)} is missing: it needs scikit-image."] if missing else []
