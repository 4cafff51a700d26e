"""LLaVA, the language model of SmartEdit: a LLaMA that reads the features of an image in place of one of its tokens.

Liu et al., "Visual Instruction Tuning" (2023), in the form of LLaVA 1.1: one dense layer projects features of CLIP's
image tower. The tower is a network of its own (`clip_vision`). Parameters: `decoder`, `mm_projector`, `lm_head`. Axes:
b rows, l tokens, v image features, c their width, d width of the decoder, s = l - 1 + v.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from rewardedit_jax.models import decoder
from rewardedit_jax.models.decoder import Decoder, DecoderConfig, causal_mask
from rewardedit_jax.models.layers import Dense, TypedModule
from rewardedit_jax.models.remat import Remat

PARTITION_RULES = (
    (r"mm_projector/kernel", P("fsdp", "tensor")),
    # The width is divided: with the added tokens, the number of rows is odd.
    (r"lm_head/kernel", P(("fsdp", "tensor"))),
    *((rf"decoder/{path}", spec) for path, spec in decoder.PARTITION_RULES),
    (r".*/(bias|scale)", P()),
)
Hidden = Float[Array, "b s d"]


@dataclass(frozen=True, kw_only=True)
class LlavaConfig:
    """Sizes of the decoder, and which features of the image tower it reads."""

    text: DecoderConfig = field(default_factory=DecoderConfig)
    mm_hidden_size: int = 1024  # c
    # Index among the tower's hidden states: -2 is the output of the last layer but one. The caller selects it.
    mm_vision_select_layer: int = -2

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LlavaConfig":
        """The config in a config.json of LLaVA 1.1. Raises ValueError naming an unsupported setting."""
        if config.get("mm_hidden_size") is None:
            raise ValueError("mm_hidden_size is missing: expected a LLaVA in the layout of its authors")
        if config.get("mm_projector_type", "linear") != "linear":
            kind = config["mm_projector_type"]
            raise ValueError(f"mm_projector_type={kind!r}: expected 'linear', as of LLaVA 1.1, not LLaVA 1.5")
        if config.get("mm_vision_select_feature", "patch") != "patch":
            kind = config["mm_vision_select_feature"]
            raise ValueError(f"mm_vision_select_feature={kind!r}: expected 'patch', without the class token")
        given = {name: config[name] for name in ("mm_hidden_size", "mm_vision_select_layer") if name in config}
        return cls(text=DecoderConfig.from_hf(config), **given)

    def to_hf(self) -> dict[str, Any]:
        """The fields of a config.json."""
        return {
            **self.text.to_hf(),
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava",
            "tie_word_embeddings": False,
            "mm_hidden_size": self.mm_hidden_size,
            "mm_vision_select_layer": self.mm_vision_select_layer,
        }


class Llava(TypedModule):
    """Token ids and features of one image per row → hidden states. `remat`: what of a layer is computed twice."""

    config: LlavaConfig
    remat: Remat = "none"

    def setup(self):
        text = self.config.text
        self.decoder = Decoder(text, self.remat, **self.types)
        self.mm_projector = Dense(text.hidden_size, **self.types)
        self.lm_head = Dense(text.vocab_size, use_bias=False, **self.types)

    def __call__(
        self,
        ids: Int[Array, "b l"],
        features: Float[Array, "b v c"],
        image_at: Int[Array, "b"],
        mask: Bool[Array, "b l"] | None = None,
    ) -> Hidden:
        """Hidden states after the final norm, of rows in which v features stand in place of one token.

        Token p is at p before the image and at p - 1 + v behind it. Positions are 0, 1, 2, ...

        Args:
          ids: contain a placeholder for the image, whose id does not matter.
          features: of the image tower, without the class token.
          image_at: index of the placeholder in `ids`.
          mask: False at padding, which no token attends to; None: there is none.
        """
        x = splice(self.decoder.embed(ids), self.mm_projector(features), image_at)
        seen = jnp.ones_like(ids, bool) if mask is None else mask
        segments = splice(jnp.where(seen, 0, -1)[..., None], jnp.zeros((*features.shape[:2], 1), int), image_at)[..., 0]
        positions = jnp.broadcast_to(jnp.arange(x.shape[1]), segments.shape)
        hidden = self.decoder(x, positions, causal_mask(segments))
        if self.is_initializing():
            self.logits(hidden)  # its parameters belong to the network, though states are all that SmartEdit reads
        return hidden

    def logits(self, hidden: Hidden) -> Float[Array, "b s n"]:
        """Logits of the next token, over the vocabulary."""
        return self.lm_head(hidden)

    def example_inputs(self) -> tuple[Any, ...]:
        features = jnp.zeros((1, 1, self.config.mm_hidden_size))
        return jnp.zeros((1, 2), jnp.int32), features, jnp.zeros(1, jnp.int32)


def splice(text: Array, image: Array, at: Int[Array, "b"]) -> Array:
    """[b, l, n] and [b, v, n] → [b, l - 1 + v, n]: rows of `text` with `image` in place of the element `at`."""
    count = image.shape[1]
    # A gather with indices of fixed shape, so that `at` may be traced.
    place = jnp.arange(text.shape[1] - 1 + count) - at[:, None]
    is_image = (place >= 0) & (place < count)
    from_text = jnp.where(place < 0, place, place - count + 1) + at[:, None]
    from_text = jnp.take_along_axis(text, jnp.where(is_image, 0, from_text)[..., None], axis=1)
    from_image = jnp.take_along_axis(image, jnp.where(is_image, place, 0)[..., None], axis=1)
    return jnp.where(is_image[..., None], from_image, from_text)
