"""`Editor`: load a pipeline directory, edit images by instruction, save the same layout."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float
from PIL import Image

from rewardedit_jax.data.tokenize import CLIPTokenizer, load_tokenizer, reward_text, tokenize
from rewardedit_jax.diffusion.guidance import Guidance
from rewardedit_jax.diffusion.samplers import sampler_table
from rewardedit_jax.diffusion.schedule import Schedule
from rewardedit_jax.editing.networks import COMPONENTS, Networks
from rewardedit_jax.editing.requests import EditRequest, in_batches, make_requests
from rewardedit_jax.editing.reward import Reward
from rewardedit_jax.editing.sampling import EditInputs, RewardInputs, edit_batch
from rewardedit_jax.weights.engine import Params
from rewardedit_jax.weights.files import read_json, write_json
from rewardedit_jax.weights.hub import find_model
from rewardedit_jax.weights.pretrained import load_pretrained, save_pretrained

NATIVE = "native"


@dataclass(frozen=True)
class Editor:
    """A reward-conditioned (or plain) InstructPix2Pix: networks, their parameters, tokenizer and noise schedule."""

    networks: Networks
    params: Params  # one tree per component: unet, vae, text_encoder
    tokenizer: CLIPTokenizer
    schedule: Schedule

    @classmethod
    def load(cls, model: str | Path, dtype: DTypeLike = jnp.float32) -> "Editor":
        """An editor from a diffusers pipeline directory, a training workdir, a shipped model's name or a hub id.

        Args:
          model: e.g. "shapes", "runs/demo", "timbrooks/instruct-pix2pix",
            "Gstar666/Reward-InsPix2Pix/stage2_reward_instruct_pix2pix".
          dtype: what the U-Net and the text encoder compute in; the VAE stays in float32, where half precision shows.
        """
        editor = cls.read(find_model(model, COMPONENTS), dtype)
        return replace(editor, params=jax.device_put(editor.params))

    @classmethod
    def read(cls, directory: Path, dtype: DTypeLike = jnp.float32) -> "Editor":
        """The same from a local pipeline directory, with the parameters left in host memory."""
        loaded = {c: load_pretrained(directory / c, jnp.float32 if c == "vae" else dtype) for c in COMPONENTS}
        return cls(
            networks=Networks(**{c: module for c, (module, _) in loaded.items()}),
            params={c: params for c, (_, params) in loaded.items()},
            tokenizer=load_tokenizer(directory / "tokenizer"),
            schedule=Schedule.from_config(read_json(directory / "scheduler" / "scheduler_config.json")),
        )

    def save(self, directory: str | Path) -> None:
        """Write a pipeline directory that `Editor.load` and PyTorch diffusers read."""
        directory = Path(directory)
        for component in COMPONENTS:
            module = getattr(self.networks, component)
            save_pretrained(module, self.params[component], directory / component)
        self.tokenizer.save_pretrained(directory / "tokenizer")
        write_json(self.schedule.to_config(), directory / "scheduler" / "scheduler_config.json")
        # Last, because its presence is what makes the directory a model.
        write_json(_model_index(self.schedule), directory / "model_index.json")

    @property
    def has_reward(self) -> bool:
        return self.networks.unet.config.reward is not None

    def edit(
        self,
        image: Any,
        instruction: str | Sequence[str],
        *,
        reward: Reward | Sequence[Reward] | None = Reward(),  # noqa: B008 -- frozen
        steps: int = 30,
        text_guidance: float = 7.5,
        image_guidance: float = 1.5,
        reward_guidance: float = 0.0,
        low_reward: Reward | None = None,
        sampler: str = "euler_ancestral",
        seed: int | Sequence[int] = 0,
        latents: np.ndarray | None = None,
        noise: np.ndarray | None = None,
        resolution: int | Literal["native"] | None = NATIVE,
        output: Literal["pil", "array"] = "pil",
        batch_size: int = 8,
    ) -> Image.Image | list[Image.Image] | Float[np.ndarray, "b h w 3"]:
        """Edit one image or many.

        Args:
          image: a PIL image, a path or an uint8[H, W, 3] array; or a sequence of them. One image meets many instructions,
            one instruction many images, otherwise they go in pairs.
          instruction: what to change. Tokens beyond the text encoder's length are cut, with a warning.
          reward: what to ask for; `Reward()` is 5/5/5. None switches the reward modules off. One, or one per edit.
          steps: sampling steps.
          text_guidance: how much the instruction counts (s_T of InstructPix2Pix).
          image_guidance: how much the source image counts (s_I).
          reward_guidance: how much more `reward` counts than `low_reward`; 0 leaves this fourth branch out.
          low_reward: what reward guidance leads away from; None = no reward at all (needs a model that was trained with
            reward dropout), `Reward(0, 0, 0)` = the worst.
          sampler: "ddim", "euler", "euler_ancestral" or "dpmpp_2m".
          seed: of the starting noise, one for each edit; a single number n stands for n, n + 1, ...
          latents: float32[N, h, w, c] standard normal starting noise instead of the seed's.
          noise: float32[steps, N, h, w, c] for the ancestral sampler, likewise.
          resolution: the long side is brought near this, aspect kept, sides multiples of the networks' (64 for Stable
            Diffusion); "native" = what the U-Net's config names (512 there); None keeps the image's own size.
          output: "pil" images, or one "array" float32[N, H, W, 3] in 0..1.
          batch_size: edits at a time.
        Returns:
          One PIL image for one image and instruction, else a list; or the array.
        Raises:
          ValueError: an unreadable image, an empty instruction, a reward outside 0..5, a size that does not fit the networks.
        """
        self._check(reward, reward_guidance)
        size = self.networks.native_resolution if resolution == NATIVE else resolution
        requests = make_requests(image, instruction, reward, size, self.networks.size_multiple)
        seeds = range(seed, seed + len(requests)) if isinstance(seed, int) else seed
        table = sampler_table(sampler, self.schedule, steps)
        guidance = Guidance(text_guidance, image_guidance, reward_guidance)
        edited: list[np.ndarray] = [None] * len(requests)
        for chosen in in_batches(requests, batch_size):
            starts = [
                self._start(requests[i], seeds[i], steps, _at(latents, i), _at(noise, (slice(None), i))) for i in chosen
            ]
            inputs = self._inputs([requests[i] for i in chosen], starts, low_reward)
            with jax.default_matmul_precision(self._precision):
                pictures = edit_batch(self.networks, self.params, inputs, table, guidance, guidance.branches)
            for i, picture in zip(chosen, np.asarray(pictures), strict=False):  # the last batch may be padded
                edited[i] = picture
        return _as_output(edited, output, single=_is_one(image) and isinstance(instruction, str))

    def _check(self, reward: Reward | Sequence[Reward] | None, reward_guidance: float) -> None:
        asked = reward if isinstance(reward, (list, tuple)) else [reward]
        if not self.has_reward and (reward_guidance or any(r not in (Reward(), None) for r in asked)):
            raise ValueError("this model has no reward modules: leave reward at its default and reward_guidance at 0.")

    @property
    def _precision(self) -> str | None:
        """Accelerators round float32 products to fewer bits unless told otherwise; a float32 editor means float32."""
        return "highest" if self.networks.unet.dtype == jnp.float32 else None

    def _start(
        self,
        request: EditRequest,
        seed: int,
        steps: int,
        latents: np.ndarray | None,
        noise: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Starting latents [h, w, c] and step noise [steps, h, w, c] of one edit: given, or drawn from the seed."""
        factor, channels = self.networks.pixels_per_latent, self.networks.vae.config.latent_channels
        height, width = (side // factor for side in request.source.shape[:2])
        drawn = np.random.default_rng(seed).standard_normal((1 + steps, height, width, channels), np.float32)
        latents = drawn[0] if latents is None else latents
        noise = drawn[1:] if noise is None else noise
        if latents.shape != drawn[0].shape or noise.shape != drawn[1:].shape:
            raise ValueError(f"latents must be [N, {height}, {width}, {channels}] here, noise [{steps}, N, ...].")
        return latents, noise

    def _inputs(self, requests: list[EditRequest], starts: list, low_reward: Reward | None) -> EditInputs:
        latents, noise = zip(*starts, strict=True)
        return EditInputs(
            source=np.stack([r.source for r in requests]),
            instruction_ids=tokenize(self.tokenizer, [r.instruction for r in requests]),
            null_ids=tokenize(self.tokenizer, [""])[0],
            reward=self._reward_inputs([r.reward for r in requests]),
            low_reward=self._reward_inputs([low_reward] * len(requests)),
            latents=np.stack(latents),
            noise=np.stack(noise, axis=1),
        )

    def _reward_inputs(self, rewards: list[Reward | None]) -> RewardInputs | None:
        if not self.has_reward:
            return None
        perspectives = self.networks.unet.config.reward.perspectives
        told = [reward or Reward() for reward in rewards]
        return RewardInputs(
            scores=np.stack([reward.scores for reward in told]),
            ids=tokenize(self.tokenizer, [reward_text(reward.texts, perspectives) for reward in told]),
            keep=np.asarray([reward is not None for reward in rewards], np.float32),
        )


def _at(array: np.ndarray | None, index: Any) -> np.ndarray | None:
    return None if array is None else np.asarray(array, np.float32)[index]


def _is_one(image: Any) -> bool:
    return not isinstance(image, (list, tuple))


def _as_output(edited: list[np.ndarray], output: str, single: bool):
    if output == "array":
        if len({picture.shape for picture in edited}) > 1:
            raise ValueError('the edits have several sizes; ask for output="pil", or one size.')
        return np.stack(edited)
    pictures = [Image.fromarray(np.uint8(np.round(picture * 255))) for picture in edited]
    return pictures[0] if single else pictures


def _model_index(schedule: Schedule) -> dict:
    nothing = [None, None]
    return {
        "_class_name": "StableDiffusionInstructPix2PixPipeline",
        "_diffusers_version": "0.36.0",
        "feature_extractor": nothing,
        "image_encoder": nothing,
        "requires_safety_checker": False,
        "safety_checker": nothing,
        "scheduler": ["diffusers", schedule.to_config()["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
