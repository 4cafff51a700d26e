"""The three networks of an editor, and what training and sampling ask of them: pure functions of their parameters."""

from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rewardedit_jax.models.clip import CLIPTextModel, TextStates
from rewardedit_jax.models.unet import UNet
from rewardedit_jax.models.vae import AutoencoderKL, Posterior
from rewardedit_jax.params import Params

COMPONENTS = ("unet", "vae", "text_encoder")


class Networks(NamedTuple):
    """The modules, without parameters: hashable, so that it can be a static argument of a jitted function."""

    unet: UNet
    vae: AutoencoderKL
    text_encoder: CLIPTextModel

    @property
    def pixels_per_latent(self) -> int:
        return self.vae.config.spatial_factor

    @property
    def size_multiple(self) -> int:
        """Image sides must be multiples of this: 64 for Stable Diffusion."""
        return self.pixels_per_latent * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def native_resolution(self) -> int:
        """The image size that the U-Net's config names: 512 for Stable Diffusion 1.5.

        Raises:
          ValueError: if it names none.
        """
        if self.unet.config.sample_size is None:
            raise ValueError("the U-Net's config.json names no sample_size: give a resolution.")
        return self.unet.config.sample_size * self.pixels_per_latent


@flax.struct.dataclass
class RewardStates:
    """A reward as the U-Net takes it."""

    scores: Any  # float32[b, 3] in 0..5
    text: Any  # states of the feedback: pooled float[b, d] (released layout) or per token [b, l, d] (paper)
    keep: Any  # float32[b]: 1; 0 where the reward is dropped, which leaves the plain editor


def encode_text(networks: Networks, params: Params, ids: Int[Array, "b l"]) -> TextStates:
    return networks.text_encoder.apply({"params": params["text_encoder"]}, ids)


def encode_image(networks: Networks, params: Params, images: Float[Array, "b h w 3"]) -> Posterior:
    """The latent distribution of images in [-1, 1], not multiplied by the VAE's scaling factor."""
    return networks.vae.apply({"params": params["vae"]}, images, method="encode")


def decode_latents(networks: Networks, params: Params, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W 3"]:
    """Images in 0..1 of latents as the U-Net knows them (multiplied by the scaling factor)."""
    latents = latents / networks.vae.config.scaling_factor
    images = networks.vae.apply({"params": params["vae"]}, latents, method="decode")
    return jnp.clip(images.astype(jnp.float32) / 2 + 0.5, 0, 1)


def reward_states(
    networks: Networks,
    feedback: TextStates,
    scores: Float[Array, "b 3"],
    keep: Float[Array, " b"],
) -> RewardStates:
    released = networks.unet.config.reward.layout == "released"
    return RewardStates(scores, feedback.pooled if released else feedback.last_hidden, keep)


def predict(
    networks: Networks,
    params: Params,
    noisy: Float[Array, "b h w c"],
    condition: Float[Array, "b h w c"],
    timestep: Float[Array, " b"] | Int[Array, " b"],
    context: Float[Array, "b l d"],
    reward: RewardStates | None = None,
    dropout_rng: PRNGKeyArray | None = None,
) -> Float[Array, "b h w c"]:
    """The U-Net's output (noise or velocity) for noisy latents beside condition latents.

    `dropout_rng` given = training mode of the reward modules; None = evaluation.
    """
    return networks.unet.apply(
        {"params": params["unet"]},
        jnp.concatenate([noisy, condition], axis=-1),
        timestep,
        context,
        **_reward_arguments(networks, reward),
        deterministic=dropout_rng is None,
        rngs=None if dropout_rng is None else {"dropout": dropout_rng},
    )


def _reward_arguments(networks: Networks, reward: RewardStates | None) -> dict[str, Array | None]:
    """Only what this U-Net was built to read: an ablation without texts has no place for them."""
    if reward is None:
        return {}
    sources = networks.unet.config.reward.sources
    given = {"reward_scores": reward.scores if "scores" in sources else None}
    given["reward_text"] = reward.text if "text" in sources else None
    return {**given, "reward_keep": reward.keep}
