"""The training data that a recipe names: `config.data.name` is a layout, `config.data.root` its folder or file."""

from ml_collections import ConfigDict

from rewardedit_jax.data.instruct_pix2pix import InstructPix2PixFolder, RewardEditFolder
from rewardedit_jax.data.instruct_pix2pix_parquet import InstructPix2PixParquet
from rewardedit_jax.data.preferences import PreferenceFile, PreferenceSource
from rewardedit_jax.data.preferences_parquet import PreferenceParquet
from rewardedit_jax.data.records import Source
from rewardedit_jax.data.triplets import TripletFile

SOURCES = ("reward_edit", "instruct_pix2pix", "instruct_pix2pix_parquet", "triplets")
PREFERENCES = ("edit_reward", "preference_file")


def open_source(data: ConfigDict) -> Source:
    """The edit records that an editor trains on.

    Args:
      data: `name` (one of SOURCES), `root` (folder; a file for triplets), `rewards` (the JSON file of RewardEdit) and
        `skip_bad` (see `bad_records`).
    Raises:
      ValueError: for an unknown name.
    """
    match data.name:
        case "reward_edit":
            return RewardEditFolder(data.root, data.rewards, skip_bad=data.skip_bad)
        case "instruct_pix2pix":
            return InstructPix2PixFolder(data.root, skip_bad=data.skip_bad)
        case "instruct_pix2pix_parquet":
            return InstructPix2PixParquet(data.root, skip_bad=data.skip_bad)
        case "triplets":
            return TripletFile(data.root, skip_bad=data.skip_bad)
    raise _unknown(data.name, SOURCES)


def open_preferences(data: ConfigDict) -> PreferenceSource:
    """The judged pairs of edits that a scorer trains on.

    Args:
      data: `name` (one of PREFERENCES), `root` (folder; a file for preference_file), `images` (the folder that paths
        in the file are relative to; empty: the folder of the file) and `skip_bad`.
    Raises:
      ValueError: for an unknown name.
    """
    match data.name:
        case "edit_reward":
            return PreferenceParquet(data.root, skip_bad=data.skip_bad)
        case "preference_file":
            return PreferenceFile(data.root, data.images or None, skip_bad=data.skip_bad)
    raise _unknown(data.name, PREFERENCES)


def _unknown(name: str, known: tuple[str, ...]) -> ValueError:
    return ValueError(
        f"data.name={name!r}: expected one of {', '.join(known)}. The shapes world is data of the recipes' variants "
        "':shapes' and ':debug'"
    )
