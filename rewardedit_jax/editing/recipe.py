"""The recipe of an editor's training: its settings, and the data that it names."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict
from msgspec import Meta

from rewardedit_jax.bases import base_named
from rewardedit_jax.data.instruct_pix2pix import InstructPix2PixFolder, InstructPix2PixParquet, RewardEditFolder
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.data.records import Source
from rewardedit_jax.models import reward_condition
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.training import recipe


def _open_edits(data: ConfigDict) -> Source:
    allow_outside = data.get("allow_outside", False)
    return open_edits(data.root, labels=data.labels, skip_bad=data.skip_bad, allow_outside=allow_outside)


# Training records by `data.name`, in the folder or file `data.root`. Parquet has no index that may have bad entries.
SOURCES: dict[str, Callable[[ConfigDict], Source]] = {
    "reward_edit": lambda data: RewardEditFolder(data.root, data.rewards, skip_bad=data.skip_bad),
    "instruct_pix2pix": lambda data: InstructPix2PixFolder(data.root, skip_bad=data.skip_bad),
    "instruct_pix2pix_parquet": lambda data: InstructPix2PixParquet(data.root),
    "triplets": _open_edits,
    "prepared": _open_edits,
}


class RewardSettings(recipe.Section):
    """The reward modules, as in `models.reward_condition.RewardConditionConfig`."""

    layout: Literal["", *reward_condition.LAYOUTS]  # "": training without reward
    sources: tuple[Literal[*reward_condition.SOURCES], ...]
    paths: tuple[Literal[*reward_condition.PATHS], ...]
    perspectives: tuple[Literal[*PERSPECTIVES], ...]
    dropout: recipe.Fraction  # probability of dropping the reward

    def __post_init__(self):
        if self.layout:
            reward_condition.RewardConditionConfig(self.layout, self.sources, self.paths, self.perspectives)


class EditingData(recipe.Data, kw_only=True):
    """Training records."""

    name: Literal[*SOURCES]  # the layout
    rewards: str  # file of the rewards, of the layout "reward_edit"
    labels: str = ""  # file of launch/label.py, of "triplets" and "prepared"; "": the rewards that the data have
    resolution: recipe.Count  # pixels; a multiple of what the base editor needs
    flip: bool  # mirror both images with probability 1/2
    cache: str | None = ""  # folder of launch/cache.py, whose examples are trained on; "" or None: images are read

    def __post_init__(self):
        if self.name == "reward_edit" and not self.rewards:
            raise ValueError("data.rewards='': expected the file of the rewards, which data.name='reward_edit' needs")


class EditingRecipe(recipe.ModelRecipe):
    """All settings of an editor's training."""

    base_editor: str  # one of `bases.BASES`
    network: dict[str, Any]  # networks that are trained from scratch
    schedule: dict[str, Any]  # fields of scheduler_config.json that differ from those of `init`
    reward: RewardSettings
    data: EditingData
    # The range ends where no example keeps both conditions.
    conditioning_dropout: Annotated[
        float, Meta(ge=0, lt=1 / 3, description="the probability of each: no instruction, no source, neither")
    ]

    reply_weight: recipe.NotNegative = 0.0  # of the loss of a base's language model, beside the squared error
    lora: recipe.LoRA | None = None  # targets begin with a component; None: kernels train as a whole, or not at all

    def __post_init__(self):
        super().__post_init__()
        if self.reply_weight and self.data.cache:
            raise ValueError(f"reply_weight={self.reply_weight}: expected 0 with data.cache, which holds no replies")
        base_named(self.base_editor).check_recipe(self)
