"""The judged pairs that a recipe names."""

from ml_collections import ConfigDict

from rewardedit_jax.data.preferences import PreferenceFile, PreferenceSource
from rewardedit_jax.data.preferences_parquet import PreferenceParquet
from rewardedit_jax.data.shapes import ShapesPreferences, prepare_shapes_preferences

PREFERENCES = ("shapes", "edit_reward", "preference_file")


def open_preferences(data: ConfigDict, split: str = "train") -> PreferenceSource:
    """The pairs of `data.name` under `data.root`; only the shapes world has a split "test".

    Args:
      data: `name` (one of PREFERENCES), `root` (folder, or list file), `images` (what paths in the list are relative
        to; empty: its folder), `skip_bad`; for shapes `train` and `test`, how many groups of six pairs there shall be
        (made on first use).
    """
    match data.name:
        case "shapes":
            return ShapesPreferences(prepare_shapes_preferences(data.root, data.train, data.test), split)
        case "edit_reward":
            return PreferenceParquet(data.root, skip_bad=data.skip_bad)
        case "preference_file":
            return PreferenceFile(data.root, data.images or None, skip_bad=data.skip_bad)
    raise ValueError(f"unknown data {data.name!r}; choose one of {', '.join(PREFERENCES)}.")
