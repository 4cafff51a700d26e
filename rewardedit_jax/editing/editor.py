"""`Editor`: load a pipeline directory, edit images by instruction, save the same layout."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float
from PIL import Image

from rewardedit_jax.data.tokenize import CLIPTokenizer, load_tokenizer, tokenize
from rewardedit_jax.diffusion.process import NoiseProcess, process_from_config
from rewardedit_jax.editing.networks import COMPONENTS, Networks
from rewardedit_jax.editing.requests import EditRequest, in_batches, make_requests, prepare_image
from rewardedit_jax.editing.sampling import EditInputs, Guidance, RewardInputs, edit_batch
from rewardedit_jax.editing.starting_noise import StartingNoise
from rewardedit_jax.params import Params
from rewardedit_jax.reward import Reward, join_feedback
from rewardedit_jax.weights.files import WeightFileError, read_json, write_json
from rewardedit_jax.weights.hub import find_model
from rewardedit_jax.weights.pretrained import load_pretrained, save_pretrained

NATIVE = "native"


@dataclass(frozen=True, eq=False)
class Editor:
    """A reward-conditioned (or plain) InstructPix2Pix: networks, their parameters, tokenizer and noise schedule."""

    networks: Networks
    params: Params  # one tree per component: unet, vae, text_encoder
    tokenizer: CLIPTokenizer
    schedule: NoiseProcess

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
        for component, (module, _) in loaded.items():
            if not isinstance(module, wanted := Networks.__annotations__[component]):
                holds = f"{directory / component} holds a {type(module).__name__}, not a {wanted.__name__}"
                raise WeightFileError(f"{holds}: its folders are mixed up. Copy it again.")
        return cls(
            networks=Networks(**{c: module for c, (module, _) in loaded.items()}),
            params={c: params for c, (_, params) in loaded.items()},
            tokenizer=load_tokenizer(directory / "tokenizer"),
            schedule=process_from_config(read_json(directory / "scheduler" / "scheduler_config.json")),
        )

    def save(self, directory: str | Path) -> None:
        """Write a pipeline directory that `Editor.load` and PyTorch diffusers read."""
        directory = Path(directory)
        for component in COMPONENTS:
            module = getattr(self.networks, component)
            save_pretrained(module, self.params[component], directory / component)
        self.tokenizer.save_pretrained(directory / "tokenizer")
        # vocab.json and merges.txt, which transformers 4 reads in place of tokenizer.json.
        self.tokenizer.backend_tokenizer.model.save(str(directory / "tokenizer"))
        write_json(self.schedule.to_config(), directory / "scheduler" / "scheduler_config.json")
        # Last, because its presence is what makes the directory a model.
        write_json(_model_index(self.schedule), directory / "model_index.json")

    @property
    def has_reward(self) -> bool:
        return self.networks.unet.config.reward is not None

    def prepare(self, image: Any, resolution: int | Literal["native"] | None = NATIVE) -> Image.Image:
        """The image as `edit` sees it with the same `resolution`: upright RGB, resized and cropped."""
        resolution = self.networks.native_resolution if resolution == NATIVE else resolution
        return prepare_image(image, resolution, self.networks.size_multiple)

    def edit(
        self,
        image: Any,
        instruction: str | Sequence[str],
        *,
        reward: Reward | Sequence[Reward | None] | None = Reward(),  # noqa: B008 -- frozen
        steps: int = 30,
        text_guidance: float | int = 7.5,
        image_guidance: float | int = 1.5,
        reward_guidance: float | int = 0.0,
        low_reward: Reward | None = None,
        sampler: str = "euler_ancestral",
        seed: int | Sequence[int] = 0,
        latents: np.ndarray | jax.Array | None = None,
        noise: np.ndarray | jax.Array | None = None,
        resolution: int | Literal["native"] | None = NATIVE,
        output: Literal["pil", "array"] = "pil",
        batch_size: int = 8,
    ) -> Image.Image | list[Image.Image] | Float[np.ndarray, "b h w 3"]:
        """Edit one image or many.

        Args:
          image: a PIL image, a path or a uint8[H, W, 3] array; or a sequence of them. One image meets many
            instructions, one instruction many images, otherwise they go in pairs.
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
          noise: float32[steps, N, h, w, c] likewise, for the sampler that adds some, "euler_ancestral".
          resolution: the long side is brought near this, aspect kept, sides multiples of the networks' (64 for Stable
            Diffusion); "native" = what the U-Net's config names (512 there); None keeps the image's own size.
          output: "pil" images, or one "array" float32[N, H, W, 3] in 0..1.
          batch_size: edits at a time.
        Returns:
          One PIL image for one image and instruction, else a list; or the array.
        Raises:
          ValueError: an image that cannot be read or does not fit the networks, an empty instruction, a reward that
            this model cannot take, an unknown sampler, noise of another shape.
        """
        self._check(reward, reward_guidance, output, batch_size)
        requests = make_requests(image, instruction, reward, partial(self.prepare, resolution=resolution))
        start = StartingNoise(self.networks, len(requests), steps, seed, latents, noise)
        table = self.schedule.sampler_table(sampler, steps)
        # As floats: whole numbers would be compiled anew.
        guidance = Guidance(*map(float, (text_guidance, image_guidance, reward_guidance)))
        edited = {}
        for chosen in in_batches(range(len(requests)), lambda i: requests[i].source.shape, batch_size):
            inputs = self._inputs(requests, chosen, low_reward, start, table.stochastic)
            with jax.default_matmul_precision(self._precision):
                pictures = edit_batch(self.networks, self.params, inputs, table, guidance, guidance.branches)
            edited |= zip(chosen, np.asarray(pictures), strict=True)
        return _as_output([edited[i] for i in range(len(requests))], output, single=_is_one(image, instruction))

    def _check(self, reward: Any, reward_guidance: float | int, output: str, batch_size: int) -> None:
        asked = reward if isinstance(reward, (list, tuple)) else [reward]
        if not self.has_reward and (reward_guidance or any(r not in (Reward(), None) for r in asked)):
            raise ValueError(
                "this model has no reward modules: leave reward at its default and reward_guidance at 0, or load a "
                "reward-conditioned model."
            )
        if output not in ("pil", "array"):
            raise ValueError(f'output is "pil" or "array", not {output!r}.')
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")

    @property
    def _precision(self) -> str | None:
        """Accelerators round float32 products to fewer bits unless told otherwise; a float32 editor means float32."""
        return "highest" if jnp.dtype(self.networks.unet.dtype) == jnp.float32 else None

    def _inputs(
        self,
        requests: list[EditRequest],
        chosen: list[int],
        low_reward: Reward | None,
        start: StartingNoise,
        stochastic: bool,
    ) -> EditInputs:
        batch = [requests[i] for i in chosen]
        source = np.stack([request.source for request in batch])
        return EditInputs(
            source=source,
            instruction_ids=tokenize(self.tokenizer, [request.instruction for request in batch]),
            null_ids=tokenize(self.tokenizer, [""])[0],
            reward=self._reward_inputs([request.reward for request in batch]),
            low_reward=self._reward_inputs([low_reward] * len(batch)),
            latents=start.latents(chosen, source.shape),
            noise=start.noise(chosen, source.shape) if stochastic else None,
        )

    def _reward_inputs(self, rewards: list[Reward | None]) -> RewardInputs | None:
        if not self.has_reward:
            return None
        perspectives = self.networks.unet.config.reward.perspectives
        told = [reward or Reward() for reward in rewards]
        return RewardInputs(
            scores=np.stack([reward.scores for reward in told]),
            ids=tokenize(self.tokenizer, [join_feedback(reward.texts, perspectives) for reward in told]),
            keep=np.asarray([reward is not None for reward in rewards], np.float32),
        )


def _is_one(image: Any, instruction: str | Sequence[str]) -> bool:
    return isinstance(instruction, str) and not isinstance(image, (list, tuple))


def _as_output(
    edited: list[np.ndarray], output: str, single: bool
) -> Image.Image | list[Image.Image] | Float[np.ndarray, "b h w 3"]:
    if output == "array":
        if len({picture.shape for picture in edited}) > 1:
            raise ValueError('the edits have several sizes, which do not go into one array: ask for output="pil".')
        return np.stack(edited)
    pictures = [Image.fromarray(np.uint8(np.round(picture * 255))) for picture in edited]
    return pictures[0] if single else pictures


def _model_index(schedule: NoiseProcess) -> dict:
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
