"""The training data that a recipe names."""

from ml_collections import ConfigDict

from rewardedit_jax.data.instruct_pix2pix import InstructPix2PixFolder, RewardEditFolder
from rewardedit_jax.data.instruct_pix2pix_parquet import InstructPix2PixParquet
from rewardedit_jax.data.records import Source
from rewardedit_jax.data.shapes import ShapesSource, prepare_shapes
from rewardedit_jax.data.triplets import TripletFile

SOURCES = ("shapes", "reward_edit", "instruct_pix2pix", "instruct_pix2pix_parquet", "triplets")


def open_source(data: ConfigDict, split: str = "train") -> Source:
    """The records of `data.name` under `data.root`; only the shapes world has a split "test".

    Args:
      data: `name` (one of SOURCES), `root` (folder, or file for triplets), `rewards` (RewardEdit's json), `skip_bad`;
        for shapes `train` and `test`, how many examples there shall be (made on first use).
    """
    match data.name:
        case "shapes":
            return ShapesSource(prepare_shapes(data.root, train=data.train, test=data.test), split)
        case "reward_edit":
            return RewardEditFolder(data.root, data.rewards, skip_bad=data.skip_bad)
        case "instruct_pix2pix":
            return InstructPix2PixFolder(data.root, skip_bad=data.skip_bad)
        case "instruct_pix2pix_parquet":
            return InstructPix2PixParquet(data.root, skip_bad=data.skip_bad)
        case "triplets":
            return TripletFile(data.root, skip_bad=data.skip_bad)
    raise ValueError(f"unknown data {data.name!r}; choose one of {', '.join(SOURCES)}.")
