"""The recipe of a scorer's training: its settings, and the data that it names."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict
from msgspec import Meta
from msgspec.structs import asdict

from rewardedit_jax.data.preferences import PreferenceFile, PreferenceParquet
from rewardedit_jax.data.prepared_pairs import PreparedPairs
from rewardedit_jax.data.records import PreferenceSource
from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.edit_reward import AGGREGATIONS, KINDS, RewardHeadsConfig
from rewardedit_jax.models.qwen2_5_vl import POSITIONS
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.scoring.images import MERGE, PATCH
from rewardedit_jax.scoring.objectives import OBJECTIVES, objective
from rewardedit_jax.scoring.pairs import TIES
from rewardedit_jax.training import recipe
from rewardedit_jax.training.recipe_check import check_network

# Training pairs by `data.name`. Image paths of a list are relative to `data.images`; empty: to the folder of the list.
PREFERENCES: dict[str, Callable[[ConfigDict], PreferenceSource]] = {
    "edit_reward": lambda data: PreferenceParquet(data.root, skip_bad=data.skip_bad),
    "preference_file": lambda data: PreferenceFile(
        data.root, data.images or None, skip_bad=data.skip_bad, allow_outside=data.get("allow_outside", False)
    ),
    "prepared": lambda data: PreparedPairs(data.root),
}


class Network(recipe.Section):
    """A network that is trained from scratch, by fields of Qwen2.5-VL's config.json."""

    text: dict[str, Any]  # without its vocabulary, which is the tokenizer's
    vision: dict[str, Any]

    def __post_init__(self):
        check_network(DecoderConfig, self.text, "network.text")
        check_network(QwenVisionConfig, self.vision, "network.vision")


class Heads(recipe.Section):
    """The reward heads, as in `models.edit_reward.RewardHeadsConfig`."""

    kind: Literal[*KINDS]
    hidden_sizes: tuple[recipe.Count, recipe.Count]
    aggregation: Literal[*AGGREGATIONS]


class ObjectiveSettings(recipe.Section):
    """Arguments of the functions in `scoring.objectives`; None: the default of the objective."""

    margin: float | None = None
    draws: recipe.Count | None = None
    tau: recipe.NotNegative | None = None
    k: Annotated[float, Meta(gt=1, le=1e6)] | None = None  # at 1, ties have probability 0
    ties: Literal["btt", "masked"] | None = None


class ObjectiveChoice(recipe.Section):
    """An objective and its settings."""

    name: Literal[*OBJECTIVES]
    settings: ObjectiveSettings


class ScoringData(recipe.Data, kw_only=True):
    """Training pairs."""

    name: Literal[*PREFERENCES]  # the layout
    images: str  # folder that the paths of a preference file are relative to; "": that of the file
    pairs: recipe.CountOrZero = 0  # the first of the data; 0: all
    ties: Literal[*TIES]
    area: Annotated[int, Meta(ge=(PATCH * MERGE) ** 2)]  # pixels of an image
    row_tokens: recipe.Count  # rows of text are padded to multiples of this
    image_patches: Annotated[int, Meta(ge=MERGE**2, multiple_of=MERGE**2)]  # images are padded to multiples of this


class ScoringRecipe(recipe.ModelRecipe):
    """All settings of a scorer's training."""

    base: str  # model with the tokenizer, if `init` has none
    network: Network
    positions: Literal[*POSITIONS]
    heads: Heads
    objective: ObjectiveChoice
    data: ScoringData
    lora: recipe.LoRA | None = None  # targets begin with "scorer"; None: kernels train as a whole, or not at all

    def __post_init__(self):
        super().__post_init__()
        if not self.init and not self.base:
            raise ValueError("base='': expected a model with a tokenizer, because init=''")
        settings = {name: value for name, value in asdict(self.objective.settings).items() if value is not None}
        objective(self.objective.name, RewardHeadsConfig(self.heads.kind).prompts, **settings)
