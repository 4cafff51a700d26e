"""EditReward's model: Qwen2.5-VL without its output layer, and heads that read the state at the reward token.

EditReward (arXiv 2509.26346) section 3.2; fact sheet 2. Without heads it is the base model. Parameters: `visual`,
`decoder` and, with heads, `heads`. Axes: b rows, l tokens, n images, p patches and f features of an image, k prompts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from rewardedit_jax.models import decoder, qwen_vision, reward_heads
from rewardedit_jax.models.decoder import Decoder, DecoderConfig
from rewardedit_jax.models.packed_prompts import PackedPrompts, multimodal_positions, visible
from rewardedit_jax.models.qwen_vision import QwenVision, QwenVisionConfig
from rewardedit_jax.models.reward_heads import RewardHeads, RewardHeadsConfig
from rewardedit_jax.models.vision_plan import VisionPlan, feature_slots, pad_patches, plan_images, real_features

PARTITION_RULES = (
    *((f"visual/{path}", spec) for path, spec in qwen_vision.PARTITION_RULES),
    *((f"decoder/{path}", spec) for path, spec in decoder.PARTITION_RULES),
    *((f"heads/{path}", spec) for path, spec in reward_heads.PARTITION_RULES),
)


@dataclass(frozen=True, kw_only=True)
class EditRewardConfig:
    """Sizes of the parts, and how positions are counted.

    "plain": every token counts one, as published EditReward weights were trained (fact sheet 0.4). "mrope": image
    tokens count rows and columns, as the base model was.
    """

    text: DecoderConfig = field(default_factory=DecoderConfig)
    vision: QwenVisionConfig = field(default_factory=QwenVisionConfig)
    heads: RewardHeadsConfig | None = field(default_factory=RewardHeadsConfig)
    positions: str = "plain"
    image_token_id: int = 151_655

    def __post_init__(self):
        if self.positions not in ("plain", "mrope"):
            raise ValueError(f"unknown positions {self.positions!r}; choose one of plain, mrope")
        if self.positions == "mrope" and self.text.mrope_section is None:
            raise ValueError("positions mrope need a text model with an mrope_section")
        if self.vision.out_hidden_size != self.text.hidden_size:
            raise ValueError(
                f"the vision tower's out_hidden_size {self.vision.out_hidden_size} is not the text model's hidden_size "
                f"{self.text.hidden_size}"
            )

    @property
    def reward_token_id(self) -> int:
        """The last embedding row, by the published convention."""
        return self.text.vocab_size - 1

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> "EditRewardConfig":
        """The config in a Hugging Face config.json of Qwen2.5-VL.

        Args:
          config: what no published file says stands under "reward_model": kind, aggregation, positions.
          shapes: of the tensors, which tell the heads and the number of embedding rows: published config.json files
            know of neither.
        Raises:
          ValueError: naming the setting, if it asks for a network that this is not.
        """
        settings = dict(config.get("reward_model") or {})
        text = {**config, **(config.get("text_config") or {}), "vocab_size": _embedding_rows(shapes)}
        heads = _heads_of(shapes, settings)
        return cls(
            text=DecoderConfig.from_hf({**text, "text_config": None}),
            vision=QwenVisionConfig.from_hf(_vision_of(config)),
            heads=heads,
            positions=settings.get("positions", "plain" if heads else "mrope"),
            image_token_id=config.get("image_token_id", cls.image_token_id),
        )

    def to_hf(self) -> dict[str, Any]:
        told = {} if self.heads is None else {k: v for k, v in asdict(self.heads).items() if k != "hidden_sizes"}
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "text_config": self.text.to_hf(),
            "vision_config": self.vision.to_hf(),
            "image_token_id": self.image_token_id,
            "tie_word_embeddings": True,  # there is no output layer, so nothing is missing to who would want one
            "reward_model": {**told, "positions": self.positions},
        }


def _vision_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if not config.get("vision_config"):
        raise ValueError("it has no vision_config: a text model alone cannot see images")
    return config["vision_config"]


def _embedding_rows(shapes: Mapping[str, tuple[int, ...]]) -> int:
    rows = [shape[0] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")]
    if len(rows) != 1:
        raise ValueError(f"its weights have {len(rows)} tensors that end in embed_tokens.weight; there must be one")
    return rows[0]


def _heads_of(shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any]) -> RewardHeadsConfig | None:
    """The heads that the tensors' names and shapes tell of; one head is "shared" unless it is said to be "single"."""
    separate = any(name.startswith("rm_heads.") for name in shapes)
    first = "rm_heads.head_0" if separate else "rm_head"
    if not any(name.startswith(f"{first}.") for name in shapes):
        return None
    if missing := [n for n in (f"{first}.{i}.weight" for i in (0, 3, 5)) if n not in shapes]:
        raise ValueError(f"its reward head lacks {', '.join(missing)}: only the published layout of three is known")
    sizes = shapes[f"{first}.0.weight"][0], shapes[f"{first}.3.weight"][0]
    kind = settings.get("kind", "separate" if separate else "shared")
    if separate != (kind == "separate"):
        raise ValueError(f"reward_model.kind {kind!r} does not fit the tensors {first}.*")
    return RewardHeadsConfig(kind, sizes, settings.get("aggregation", "mean"))


@flax.struct.dataclass
class PromptStates:
    """What one prompt yields, for every row of a batch. Leaves are `Any`: under `jax.eval_shape` they are shapes."""

    outputs: Any  # float32[b 2], (mean, log σ) of the head; None in a model without heads
    hidden: Any  # float32[b d], after the final norm, at the reward token
    image_features: Any  # float32[features d], of all images in order


@flax.struct.dataclass
class ImageFeatures:
    """What the decoder reads of n images. Leaves are `Any`: under `jax.eval_shape` they are shapes."""

    values: Any  # float[n f d], zero at padding
    rows: Any  # int32[n f], where in its image the feature lies, counted in features; 0 at padding
    columns: Any  # int32[n f]


class EditReward(nn.Module):
    """The scorer's network. With `remat`, blocks of both transformers are recomputed on the way back."""

    config: EditRewardConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self):
        c, types = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype, "remat": self.remat}
        self.visual = QwenVision(c.vision, **types)
        self.decoder = Decoder(c.text, **types)
        self.heads = None if c.heads is None else RewardHeads(c.heads)

    def __call__(
        self,
        input_ids: Int[Array | np.ndarray, "b l"],
        attention_mask: Int[Array | np.ndarray, "b l"],
        pixel_values: Float[Array | np.ndarray, "patches c"],
        image_grid_thw: Int[np.ndarray, "n 3"],
        head: int = 0,
    ) -> PromptStates:
        """One prompt for each row, in the layout of the Hugging Face processor.

        Args:
          input_ids: with as many image tokens, over all rows, as there are features, and a reward token in each row.
          attention_mask: 1 at tokens, 0 at padding (on the right).
          pixel_values: normalised patches of all images, one after the other.
          image_grid_thw: their (1, rows, columns) in patches; concrete, as shapes follow from it.
          head: 0 for the prompt on following, 1 for that on quality.
        Raises:
          ValueError: no such head; no reward token in a row; image tokens that are not as many as there are features.
            Of ids that `jax.jit` traces nothing can be told but the head.
        """
        grids = np.asarray(image_grid_thw)
        self._check(input_ids, attention_mask, grids, head)
        images = self.encode(jnp.asarray(pad_patches(pixel_values, grids)), plan_images(grids, self.config.vision))
        hidden = self._states(images, self._one_prompt(input_ids, attention_mask, grids))
        outputs = None if self.heads is None else self.heads(hidden, head)[:, 0]
        told = hidden[:, 0], real_features(images.values, grids)
        return PromptStates(outputs, *(x.astype(jnp.float32) for x in told))

    def encode(self, patches: Float[Array, "n p c"], plan: VisionPlan) -> ImageFeatures:
        """The features of images, each of which depends on its image alone and serves every prompt that shows it."""
        merge = self.config.vision.spatial_merge_size
        rows, columns = (jnp.asarray(at)[:, :: merge**2] // merge for at in (plan.rows, plan.columns))
        return ImageFeatures(self.visual(patches, plan), rows, columns)

    def judge(
        self,
        images: ImageFeatures,
        prompts: PackedPrompts,
        reward_token: Float[Array, " d"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b k 2"]:
        """(mean, log σ) of each of a row's prompts, from one pass; before aggregation.

        Args:
          images: whose features `prompts.image_slots` counts, those at padding included.
          reward_token: stands for the reward token's embedding row, so that it can train where the others do not.
          deterministic: False in training, which drops out with the rng "dropout".
        """
        return self.heads(self._states(images, prompts, reward_token), 0, deterministic)

    def score(
        self, patches: Float[Array, "n p c"], plan: VisionPlan, *args: Any, **kwargs: Any
    ) -> Float[Array, "b k 2"]:
        """`judge` of the prompts that follow, on images encoded for them."""
        return self.judge(self.encode(patches, plan), *args, **kwargs)

    def _states(
        self,
        images: ImageFeatures,
        prompts: PackedPrompts,
        reward_token: Float[Array, " d"] | None = None,
    ) -> Float[Array, "b k d"]:
        """States at the reward tokens."""
        prompts = jax.tree.map(jnp.asarray, prompts)
        slots = prompts.image_slots[..., None]
        x = self.decoder.embed(prompts.ids)
        if reward_token is not None:
            is_reward = prompts.ids == self.config.reward_token_id
            x = jnp.where(is_reward[..., None], reward_token.astype(x.dtype), x)
        x = jnp.where(slots >= 0, images.values.reshape(-1, x.shape[-1])[prompts.image_slots], x)
        states = self.decoder(x, self._positions(images, prompts), visible(prompts.segments))
        return jnp.take_along_axis(states, prompts.reward_index[..., None], axis=1)

    def _positions(self, images: ImageFeatures, prompts: PackedPrompts) -> Int[Array, "b l"] | Int[Array, "3 b l"]:
        if self.config.positions == "plain":
            return prompts.positions
        return multimodal_positions(prompts, images.rows, images.columns)

    def _check(self, ids: Any, mask: Any, grids: Int[np.ndarray, "n 3"], head: int) -> None:
        """Refuses what would give numbers all the same: of a row's first state, of features at the wrong tokens."""
        c = self.config
        if c.heads is not None and not 0 <= head < c.heads.prompts:
            raise ValueError(f"there is no head {head}: this scorer has {c.heads.prompts} prompts, the first is 0")
        if isinstance(ids, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
            return
        ids, seen = np.asarray(ids), np.asarray(mask) > 0
        is_image, is_reward = (seen & (ids == token) for token in (c.image_token_id, c.reward_token_id))
        words = ids[seen & ~is_image]
        if ((words < 0) | (words > c.reward_token_id)).any():
            raise ValueError(f"there are ids outside 0..{c.reward_token_id}, the rows of the embedding matrix")
        lacking = np.flatnonzero(~is_reward.any(axis=1)).tolist()
        if c.heads is not None and lacking:
            raise ValueError(f"rows {lacking} have no reward token, whose id is {c.reward_token_id}")
        tokens, features = is_image.sum(), grids.prod(axis=1).sum() // c.vision.spatial_merge_size**2
        if tokens != features:
            raise ValueError(f"{tokens} image tokens of id {c.image_token_id}, but the grids make {features} features")

    def _one_prompt(
        self,
        ids: Int[Array | np.ndarray, "b l"],
        mask: Int[Array | np.ndarray, "b l"],
        grids: Int[np.ndarray, "n 3"],
    ) -> PackedPrompts:
        """Rows of a single prompt, which is all shared."""
        ids, mask = jnp.asarray(ids), jnp.asarray(mask, bool)
        is_image = (ids == self.config.image_token_id) & mask
        number = jnp.cumsum(is_image.ravel()).reshape(ids.shape) - 1
        slots = jnp.asarray(feature_slots(grids, self.config.vision.spatial_merge_size))
        return PackedPrompts(
            ids=ids,
            positions=jnp.where(mask, jnp.cumsum(mask, axis=1) - 1, 0),
            segments=jnp.where(mask, 0, -1),
            image_slots=jnp.where(is_image, slots[number], -1),
            reward_index=(ids == self.config.reward_token_id).argmax(axis=1)[:, None],
        )

    def example_inputs(self) -> tuple[Any, ...]:
        """The smallest inputs that reach every parameter."""
        merge = self.config.vision.spatial_merge_size
        ids = np.array([[self.config.image_token_id, self.config.reward_token_id]])
        patches = np.zeros((merge**2, self.config.vision.patch_values), np.float32)
        return ids, np.ones_like(ids), patches, np.array([[1, merge, merge]])
