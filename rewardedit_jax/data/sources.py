"""The training data of a recipe: `config.data.name` is the layout, `config.data.root` the folder or file."""

from ml_collections import ConfigDict

from rewardedit_jax.data.instruct_pix2pix import InstructPix2PixFolder, InstructPix2PixParquet, RewardEditFolder
from rewardedit_jax.data.preferences import PreferenceFile, PreferenceParquet
from rewardedit_jax.data.records import PreferenceSource, Source
from rewardedit_jax.data.triplets import TripletFile

# The values of `data.name`, for editors and for scorers.
SOURCES = ("reward_edit", "instruct_pix2pix", "instruct_pix2pix_parquet", "triplets")
PREFERENCES = ("edit_reward", "preference_file")


def open_source(data: ConfigDict) -> Source:
    """The edit records that an editor trains on.

    Args:
      data: `name` (one of SOURCES), `root` (folder; a file for triplets), `rewards` (the JSON file of RewardEdit) and
        `skip_bad` (whether malformed entries of an index are left out; `order` replaces what cannot be read).
    Raises:
      ValueError: for an unknown name.
    """
    match data.name:
        case "reward_edit":
            return RewardEditFolder(data.root, data.rewards, skip_bad=data.skip_bad)
        case "instruct_pix2pix":
            return InstructPix2PixFolder(data.root, skip_bad=data.skip_bad)
        case "instruct_pix2pix_parquet":
            return InstructPix2PixParquet(data.root)  # no index: bad rows show when they are read
        case "triplets":
            return TripletFile(data.root, skip_bad=data.skip_bad)
    raise _unknown(data.name, SOURCES)


def open_preferences(data: ConfigDict) -> PreferenceSource:
    """The pairs of edits with preferences that a scorer trains on.

    Args:
      data: `name` (one of PREFERENCES), `root` (folder; a file for preference_file), `images` (the folder that paths
        in the file are relative to; empty: the folder of the file) and `skip_bad` as in `open_source`.
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
        f"data.name={name!r}: expected one of {', '.join(known)}. The shapes world is the data of the recipe variants "
        "':shapes' and ':debug'."
    )
