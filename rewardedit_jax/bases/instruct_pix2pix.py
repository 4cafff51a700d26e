"""InstructPix2Pix, plain or reward-conditioned: Stable Diffusion with the source as latents beside the noisy ones.

Brooks et al., "InstructPix2Pix" (CVPR 2023), section 3.2; the reward is that of Multi-Reward as Condition
(arXiv:2411.04713). Clean latents are z = scaling · sample(E(edited)). The condition latents c_I = mode(E(source)) are
*not* scaled, as in the published code of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt8, UInt32

from rewardedit_jax.bases.base import Dropout, Guidance, Keep, Precomputed, ReportCut, each_in_turn, in_turns
from rewardedit_jax.bases.stable_diffusion import StableDiffusionFiles
from rewardedit_jax.data.clip_tokenizer import CLIPTokenizer, encode_texts, tokenizer_digest
from rewardedit_jax.diffusion.process import NoiseProcess
from rewardedit_jax.models.clip import CLIPTextModel, TextStates
from rewardedit_jax.models.tiling import in_tiles
from rewardedit_jax.models.unet import UNet
from rewardedit_jax.models.vae import AutoencoderKL, Posterior
from rewardedit_jax.params import Params
from rewardedit_jax.reward import Reward, join_feedback

_BRANCHES = ("text", "image", "neither")
_LOW = "low"  # the fourth branch, of reward guidance


@flax.struct.dataclass(kw_only=True)
class RewardInputs:
    """What the text encoder reads of a batch of requests, besides their instructions, and the scores."""

    null_ids: Any  # int32[b, l]: CLIP tokens of the empty instruction, the same in every row
    # None in a base without reward modules:
    reward_ids: Any = None  # int32[b, l]: tokens of the joined feedback texts
    scores: Any = None  # float32[b, 3] in 0..5: following, preserving, quality
    keep: Any = None  # float32[b]: 1; 0 for a request without a reward


@flax.struct.dataclass(kw_only=True)
class Inputs(RewardInputs):
    """What the networks read of a batch of requests, besides the source images."""

    instruction_ids: Any  # int32[b, l]: CLIP tokens


@flax.struct.dataclass
class Moments:
    """The latent distribution of images, with the standard deviation, which bears rounding, for the log variance."""

    mean: Any  # float32[b, h, w, c]
    std: Any  # float32[b, h, w, c]

    @classmethod
    def of(cls, posterior: Posterior) -> "Moments":
        return cls(posterior.mean, jnp.exp(posterior.log_var / 2))


@flax.struct.dataclass
class RewardStates:
    """A reward as the U-Net takes it."""

    scores: Any  # float32[b, 3] in 0..5
    # States of the feedback text: pooled float[b, d] (released layout) or per token [b, l, d] (paper); None if no
    # module reads them.
    text: Any
    keep: Any  # float32[b]: 1; 0 where the reward is dropped, which leaves the plain editor


@flax.struct.dataclass
class RequestStates:
    """Requests after the text encoder, before any is dropped."""

    instruction: Any  # float[b, l, d]
    reward: RewardStates | None


@flax.struct.dataclass
class Conditions:
    """What the U-Net is conditioned on besides the noisy latents."""

    image: Any  # float32[b, h, w, c]: condition latents of the source; zero where it is dropped
    context: Any  # float[b, l, d]: states of the instruction, for cross-attention
    reward: RewardStates | None
    residual: Any = None  # float[b, h, w, c]: is added to the first feature map; None: nothing is


@dataclass(frozen=True)
class InstructPix2Pix(StableDiffusionFiles):
    """The base editor; a `bases.base.Base`."""

    name: ClassVar[str] = "instruct_pix2pix"
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionPipeline")
    precomputing: ClassVar[tuple[str, ...]] = ("vae", "text_encoder")

    unet: UNet
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    process: NoiseProcess
    # Not compared: it acts on the host only, and editors that were loaded twice share their compiled programs.
    tokenizer: CLIPTokenizer = field(compare=False, repr=False)

    @property
    def dtype(self) -> DTypeLike:
        return self.unet.dtype

    @property
    def has_reward(self) -> bool:
        return self.unet.config.reward is not None

    @property
    def size_multiple(self) -> int:
        """Pixels of a latent, times the U-Net's downsampling: 64 for Stable Diffusion."""
        return self.vae.config.spatial_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def native_resolution(self) -> int | None:
        """The image size that the U-Net's config names: 512 for Stable Diffusion 1.5."""
        side = self.unet.config.sample_size
        return None if side is None else side * self.vae.config.spatial_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        factor = self.vae.config.spatial_factor
        return height // factor, width // factor, self.vae.config.latent_channels

    # On the host

    def read(
        self,
        sources: Sequence[UInt8[np.ndarray, "H W 3"]],
        instructions: Sequence[str],
        rewards: Sequence[Reward | None],
        report_cut: ReportCut,
    ) -> Inputs:
        """Token ids and scores. A missing reward has the best one's values, with `keep` 0."""
        ids = self._token_ids(instructions, report_cut)
        return Inputs(instruction_ids=ids, **self._read_rewards(rewards, report_cut))

    def _read_rewards(self, rewards: Sequence[Reward | None], report_cut: ReportCut) -> dict[str, np.ndarray]:
        """What the text encoder reads besides the instructions: the empty text, and the rewards."""
        null = {"null_ids": np.repeat(encode_texts(self.tokenizer, [""]).ids, len(rewards), axis=0)}
        if not self.has_reward:
            return null
        perspectives, filled = self.unet.config.reward.perspectives, [reward or Reward() for reward in rewards]
        return null | {
            "reward_ids": self._token_ids([join_feedback(reward.texts, perspectives) for reward in filled], report_cut),
            "scores": np.stack([reward.scores for reward in filled]),
            "keep": np.asarray([reward is not None for reward in rewards], np.float32),
        }

    def _token_ids(self, texts: Sequence[str], report_cut: ReportCut) -> Int[np.ndarray, "b l"]:
        tokens = encode_texts(self.tokenizer, texts)
        for i in np.flatnonzero(tokens.cut):
            report_cut(texts[i], int(tokens.cut[i]))
        return tokens.ids

    def reply(
        self, params: Params, inputs: RewardInputs, instructions: Sequence[str], seeds: UInt32[np.ndarray, " b"]
    ) -> RewardInputs:
        return inputs

    def reading(self) -> dict[str, Any]:
        perspectives = list(self.unet.config.reward.perspectives) if self.has_reward else None
        return {"tokenizer": tokenizer_digest(self.tokenizer), "reward.perspectives": perspectives}

    def guide(self, text: float, image: float, reward: float) -> Guidance:
        """Brooks et al., eq. 3, and a fourth branch for the reward where it is asked for:

        text     (instruction, source,    reward)
        image    ("",          source,    reward)
        neither  ("",          no source, reward)
        low      (instruction, source,    low or no reward)

        e = neither + text_scale (text - image) + image_scale (image - neither) + reward_scale (text - low)
        """
        weights = [text, image - text, 1 - image]
        if not reward:
            return Guidance(_BRANCHES, np.float32(weights))
        weights[0] += reward
        return Guidance((*_BRANCHES, _LOW), np.float32([*weights, -reward]))

    # Traced

    def encode(self, params: Params, images: Float[Array, "b H W 3"], tile: int | None = None) -> Posterior:
        """The latent distribution of images in [-1, 1], not multiplied by the VAE's scaling factor."""
        return self._autoencode(params, "encode", images, tile)

    def precompute(
        self,
        params: Params,
        source: Float[Array, "b H W 3"],
        edited: Float[Array, "b H W 3"],
        inputs: Inputs,
        rng: PRNGKeyArray | None = None,
    ) -> Precomputed:
        # Both images of each pair go through the autoencoder in one pass, and both texts through the text encoder.
        edited, source = each_in_turn(self.encode(params, in_turns(edited, source)))
        null = self._null_states(params, inputs)
        if self.has_reward:
            states = self._text_states(params, in_turns(inputs.instruction_ids, inputs.reward_ids))
            instruction, feedback = each_in_turn(states)
            reward = self._reward_states(inputs, feedback)
        else:
            instruction, reward = self._text_states(params, inputs.instruction_ids), None
        return Precomputed(Moments.of(edited), source.mode, RequestStates(instruction.last_hidden, reward), null)

    def latents(self, edited: Moments, rng: PRNGKeyArray) -> Float[Array, "b h w c"]:
        noise = jax.random.normal(rng, edited.mean.shape, edited.mean.dtype)
        return self.vae.config.scale_latents(edited.mean + edited.std * noise)

    def decode(
        self, params: Params, latents: Float[Array, "b h w c"], tile: int | None = None
    ) -> Float[Array, "b H W 3"]:
        latents = self.vae.config.unscale_latents(latents)
        images = self._autoencode(params, "decode", latents, tile)
        images = jnp.where(jnp.isfinite(images), images, jnp.nan)  # infinity would be clipped to black or white
        return jnp.clip(images.astype(jnp.float32) / 2 + 0.5, 0, 1)

    def draw_keep(self, rng: PRNGKeyArray, batch: int, dropout: Dropout) -> Keep:
        """Instruction only, both, and source only are dropped with probability d each (Brooks et al., section 3.2.1).

        One uniform number p decides about both: the instruction is dropped where p < 2d, the source where d ≤ p < 3d.
        The reward is dropped on its own, which gives reward guidance a branch without reward to compare with.
        """
        text_rng, reward_rng = jax.random.split(rng)
        p, d = jax.random.uniform(text_rng, (batch,)), dropout.conditioning
        return {
            "instruction": p >= 2 * d,
            "image": (p < d) | (p >= 3 * d),
            "reward": jax.random.bernoulli(reward_rng, 1 - dropout.reward, (batch,)).astype(jnp.float32),
        }

    def condition(self, params: Params, examples: Precomputed, keep: Keep) -> Conditions:
        image = jnp.where(_per_sample(keep["image"], 4), examples.source, 0)
        # Dropping a text means the states of the empty one.
        context = jnp.where(_per_sample(keep["instruction"], 3), examples.request.instruction, examples.shared)
        reward = examples.request.reward
        if reward is not None:
            reward = reward.replace(keep=reward.keep * keep["reward"])
        return Conditions(image, context, reward)

    def condition_branches(
        self, params: Params, source: Posterior, inputs: RewardInputs, low: RewardInputs, branches: tuple[str, ...]
    ) -> Conditions:
        context, residual = self._read_instructions(params, inputs, source.mode.shape[1:3])
        null_context = self._null_states(params, inputs)[None]
        with_text = [branch in ("text", _LOW) for branch in branches]
        with_image = [branch != "neither" for branch in branches]
        reward = None
        if self.has_reward:
            asked, low = (self._reward_states(of, self._text_states(params, of.reward_ids)) for of in (inputs, low))
            reward = _stack([branch != _LOW for branch in branches], asked, low)
        return Conditions(
            _stack(with_image, source.mode, jnp.zeros_like(source.mode)),
            _stack(with_text, context, null_context),
            reward,
            # In every branch, as in training: it is not dropped.
            _stack([True] * len(branches), residual, residual),
        )

    def denoise(
        self,
        params: Params,
        noisy: Float[Array, "b h w c"],
        times: Float[Array, " b"] | Int[Array, " b"],
        conditions: Conditions,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "b h w c"]:
        return self.unet.apply(
            {"params": params["unet"]},
            jnp.concatenate([noisy, conditions.image], axis=-1),
            times,
            conditions.context,
            **self._reward_arguments(conditions.reward),
            residual=conditions.residual,
            deterministic=rng is None,
            rngs=None if rng is None else {"dropout": rng, "lora": rng},
        )

    def _autoencode(self, params: Params, method: str, x: Float[Array, "b h w c"], tile: int | None) -> PyTree:
        """What "encode" or "decode" of the autoencoder makes of images or latents; `tile` in pixels."""
        network = partial(self.vae.apply, {"params": params["vae"]}, method=method)
        if tile is None:
            return network(x)
        factor = self.vae.config.spatial_factor
        reads, writes = (factor, 1) if method == "encode" else (1, factor)
        return in_tiles(network, x, tile // factor, reads, writes)

    def _text_states(self, params: Params, ids: Int[Array, "b l"]) -> TextStates:
        return self.text_encoder.apply({"params": params["text_encoder"]}, ids)

    def _null_states(self, params: Params, inputs: RewardInputs) -> Float[Array, "l d"]:
        """States of the empty instruction, which stand for a dropped one."""
        return self._text_states(params, inputs.null_ids[:1]).last_hidden[0]

    def _read_instructions(
        self, params: Params, inputs: RewardInputs, size: tuple[int, int]
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b h w c"] | None]:
        """Context and residual of requests, for latents of this height and width."""
        return self._text_states(params, inputs.instruction_ids).last_hidden, None

    def _reward_states(self, inputs: RewardInputs, feedback: TextStates) -> RewardStates:
        settings = self.unet.config.reward
        text = feedback.pooled if settings.layout == "released" else feedback.last_hidden
        # An ablation without feedback texts has no parameters for them.
        return RewardStates(inputs.scores, text if "text" in settings.sources else None, inputs.keep)

    def _reward_arguments(self, reward: RewardStates | None) -> dict[str, Array | None]:
        """Only what this U-Net reads: an ablation without scores has no parameters for them."""
        if reward is None:
            return {}
        scores = reward.scores if "scores" in self.unet.config.reward.sources else None
        return {"reward_scores": scores, "reward_text": reward.text, "reward_keep": reward.keep}


def _per_sample(keep: Array, ndim: int) -> Array:
    """[b] → [b, 1, ...] with `ndim` axes."""
    return keep.reshape(-1, *[1] * (ndim - 1))


def _stack(keep: Sequence[bool], kept: PyTree, dropped: PyTree) -> PyTree:
    """One condition for all branches, [b, ...] → [k·b, ...]: `dropped`, broadcast, in branches that do not keep it."""

    def rows(with_it: Array, without: Array) -> Array:
        without = jnp.broadcast_to(without, with_it.shape)
        return jnp.concatenate([with_it if kept_here else without for kept_here in keep])

    return jax.tree.map(rows, kept, dropped)
