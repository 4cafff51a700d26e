"""`Editor`: load a pipeline directory, edit images by instruction, save the same layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, SupportsFloat, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float
from PIL import Image

from rewardedit_jax.arguments import as_integer, as_number, check_dtype, check_path, shown
from rewardedit_jax.bases import find_pipeline, open_pipeline
from rewardedit_jax.bases.base import Base
from rewardedit_jax.data.clip_tokenizer import warn_cut
from rewardedit_jax.data.image_arguments import image_list
from rewardedit_jax.data.images import to_unit
from rewardedit_jax.data.runs import Failed, NonFiniteResults
from rewardedit_jax.editing.requests import EditRequest, in_batches, make_requests, prepare_image
from rewardedit_jax.editing.sampling import EditInputs, StartingNoise, edit_batch
from rewardedit_jax.models.tiling import LEAST_CELLS
from rewardedit_jax.params import Params, fingerprint
from rewardedit_jax.reward import Reward
from rewardedit_jax.weights.pretrained import default_dtype

NATIVE = "native"
BEST = "best"
Asked = Reward | None | Literal["best"]


@dataclass(frozen=True, eq=False)
class Editor:
    """An image editor: a base editor and its parameters."""

    base: Base
    params: Params  # one tree per component of the base

    @classmethod
    def load(cls, model: str | Path, dtype: DTypeLike | None = None, *, allow_nonfinite: bool = False) -> "Editor":
        """An editor from a diffusers pipeline directory, a training workdir, a shipped model's name or a hub id.

        Args:
          model: e.g. "shapes", "runs/demo", "timbrooks/instruct-pix2pix",
            "Gstar666/Reward-InsPix2Pix/stage2_reward_instruct_pix2pix".
          dtype: "float32", "bfloat16" or "float16", of computation, except in the VAE, which stays in float32; None:
            bfloat16 on accelerators, float32 on a CPU.
          allow_nonfinite: load a model all the same whose weights are NaN or infinite in some places.
        Raises:
          ModelNotFound, WeightFileError, WeightMismatch, ValueError: something is missing or does not fit; the message
            names it.
        """
        check_path("model", model)
        if dtype is not None:
            check_dtype("dtype", dtype)
        # Nothing is drawn: a pipeline directory has all parameters, so the key is not used.
        dtype = default_dtype() if dtype is None else dtype
        start = open_pipeline(find_pipeline(model), dtype, allow_nonfinite)
        return cls(start.base, jax.device_put(start.init(jax.random.key(0))))

    def save(self, directory: str | Path) -> None:
        """Write a pipeline directory that `Editor.load` and PyTorch diffusers read.

        It replaces the model that is there; other files stay. If it cannot be written, or parameters are not finite
        (ValueError), the old model stays.
        """
        check_path("directory", directory)
        self.base.save(self.params, Path(directory))

    @property
    def has_reward(self) -> bool:
        """Whether the editor is reward-conditioned."""
        return self.base.has_reward

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that differ for editors whose weights, noise process, settings or precision differ."""
        settings = map(repr, self.base.settings.items())
        dtype = jnp.dtype(self.base.dtype).name
        return fingerprint(self.params, self.base.name, repr(self.base.process), dtype, *settings)

    def requested(self, reward: Asked) -> Reward | None:
        """The reward that an argument of `edit` stands for: "best" is 5/5/5, and nothing without reward modules."""
        best = Reward() if self.has_reward else None
        return best if reward == BEST else reward

    def prepare(self, image: Any, resolution: SupportsIndex | Literal["native"] | None = NATIVE) -> Image.Image:
        """The image as `edit` sees it with the same `resolution`: upright RGB, resized and cropped."""
        return prepare_image(image, self._long_side(resolution), self.base.size_multiple)

    def _long_side(self, resolution: Any) -> int | None:
        """The number of pixels that a `resolution` stands for; None: the image's own size."""
        if resolution is None:
            return None
        if not isinstance(resolution, str):
            return as_integer("resolution", resolution, 1)
        if resolution != NATIVE:
            raise ValueError(f"resolution={shown(resolution)}: expected 'native', a number of pixels, or None.")
        if (native := self.base.native_resolution) is not None:
            return native
        raise ValueError("the model's files do not say which resolution it was trained at: give a resolution.")

    def _tile(self, tile: Any) -> int:
        """A `tile` as an integer. Raises ValueError if it does not fit the networks."""
        multiple = self.base.size_multiple
        tile = as_integer("tile", tile, LEAST_CELLS * multiple)
        if tile % multiple:
            raise ValueError(f"tile={tile}: expected a multiple of {multiple}.")
        return tile

    def edit(
        self,
        image: Any,
        instruction: str | Sequence[str],
        *,
        reward: Asked | Sequence[Asked] = BEST,
        steps: SupportsIndex = 30,
        text_guidance: SupportsFloat = 7.5,
        image_guidance: SupportsFloat = 1.5,
        reward_guidance: SupportsFloat = 0.0,
        low_reward: Reward | None = None,
        sampler: str | None = None,
        seed: SupportsIndex | Sequence[SupportsIndex] = 0,
        latents: np.ndarray | jax.Array | None = None,
        noise: np.ndarray | jax.Array | None = None,
        resolution: SupportsIndex | Literal["native"] | None = NATIVE,
        output: Literal["pil", "array"] = "pil",
        batch_size: SupportsIndex = 8,
        tile: SupportsIndex | None = None,
    ) -> Image.Image | list[Image.Image] | Float[np.ndarray, "b h w 3"]:
        """Edit one image or many.

        Args:
          image: a path, a PIL image, or an array (NumPy, JAX, or PyTorch in host memory) uint8[H, W, 3], also [H, W]
            for grey and [H, W, 4] for RGBA; or several images, as a sequence or an array uint8[N, H, W, 3]. One image
            goes with many instructions, one instruction with many images; otherwise they go in pairs.
          instruction: what to change. Tokens beyond the text encoder's length are cut, with a warning.
          reward: what to ask for: a `Reward`, or one for each edit. "best" is 5/5/5, and nothing in an editor without
            reward modules. None switches the reward modules off.
          steps: sampling steps.
          text_guidance: guidance scale of the instruction (s_T of InstructPix2Pix, eq. 3).
          image_guidance: guidance scale of the source image (s_I).
          reward_guidance: guidance scale of `reward` over `low_reward`; 0 leaves this branch out.
          low_reward: what reward guidance leads away from; None: no reward (needs a model that was trained with reward
            dropout), `Reward(0, 0, 0)`: the worst one.
          sampler: one of the noise process's samplers: "ddim", "euler", "euler_ancestral" or "dpmpp_2m" for models that
            predict noise or velocity of a DDPM, "euler" for flow matching. None: the process's default.
          seed: of the starting noise, 0..2³² - 1, one for each edit; a single number n stands for n, n + 1, ... Also of
            a reply that a model's own setting has its language model draw.
          latents: float32[N, h, w, c] standard normal starting noise instead of the seed's.
          noise: float32[steps, N, h, w, c] standard normal noise of the steps, for "euler_ancestral".
          resolution: the long side is resized to about this, the aspect ratio is kept, and both sides become multiples
            of the networks' factor (64 for Stable Diffusion). "native": the resolution that the model was trained at
            (512 there). None keeps the image's own size.
          output: "pil" images, or one "array" float32[N, H, W, 3] in 0..1.
          batch_size: edits at a time.
          tile: the autoencoder takes images with a side longer than this in overlapping tiles of so many pixels, which
            bounds its memory: 512 for Stable Diffusion, a multiple of its 64. Results differ slightly from those of the
            whole image. None: never.
        Returns:
          One PIL image for one image and instruction, else a list; or the array.
        Raises:
          ValueError: an argument of another type or outside its range, NaN and infinity included (numbers of Python and
            NumPy and arrays without axes are numbers, booleans are not); an image that cannot be read or does not fit
            the networks (`ImageError`); an empty instruction; a reward that this model cannot take. The message names
            the argument and its value.
          NonFiniteResults: the networks gave NaN for some edits. It holds the PIL images of the others.
        """
        # Everything that the arguments alone can tell is refused before an image is read.
        self._check(reward, reward_guidance, low_reward, output)
        steps, batch_size = as_integer("steps", steps, 1), as_integer("batch_size", batch_size, 1)
        tile = None if tile is None else self._tile(tile)
        process = self.base.process
        sampler = process.default_sampler if sampler is None else sampler
        process.check_sampler(sampler, steps)
        scales = {"text_guidance": text_guidance, "image_guidance": image_guidance, "reward_guidance": reward_guidance}
        guidance = self.base.guide(*(as_number(name, scale) for name, scale in scales.items()))
        rewards = (
            [self.requested(one) for one in reward] if isinstance(reward, (list, tuple)) else self.requested(reward)
        )
        prepare = partial(self.prepare, resolution=self._long_side(resolution))
        requests = make_requests(image, instruction, rewards, prepare)
        start = StartingNoise(self.base, len(requests), steps, seed, latents, noise)
        edited = {}
        for chosen in in_batches(range(len(requests)), lambda i: requests[i].source.shape, batch_size):
            batch = [requests[i] for i in chosen]
            height, width, _ = batch[0].source.shape
            # An image that fits in one tile is edited by the same program as without tiles.
            needed = tile if tile is not None and tile < max(height, width) else None
            # The table may depend on the size: flow matching shifts its noise levels with the resolution.
            shape = (len(batch), *self.base.latent_shape(height, width))
            table = process.sampler_table(sampler, steps, shape)
            with jax.default_matmul_precision(self._precision):
                inputs = self._inputs(batch, chosen, low_reward, start, table.stochastic)
                images = edit_batch(self.base, self.params, inputs, table, guidance.weights, guidance.branches, needed)
            # Batches are formed by size, so edits come out in another order than they were asked for.
            edited |= zip(chosen, np.asarray(images), strict=True)
        images = [edited[i] for i in range(len(requests))]
        self._check_finite(images)
        return _as_output(images, output, isinstance(instruction, str) and image_list(image) is None)

    def _check(self, reward: Any, reward_guidance: Any, low_reward: Any, output: Any) -> None:
        asked = list(reward) if isinstance(reward, (list, tuple)) else [reward]
        for one in asked:
            if not (one is None or isinstance(one, Reward) or (isinstance(one, str) and one == BEST)):
                raise ValueError(
                    f"reward={shown(one)}: expected a Reward, 'best' or None, or one of them for each edit."
                )
        if not isinstance(low_reward, Reward | None):
            raise ValueError(f"low_reward={shown(low_reward)}: expected a Reward, or None for no reward.")
        takes_reward = any(isinstance(one, Reward) for one in (*asked, low_reward))
        if not self.has_reward and (takes_reward or as_number("reward_guidance", reward_guidance)):
            raise ValueError(
                "this model has no reward modules, so it cannot take a reward or reward_guidance: leave reward at "
                "'best' or None and reward_guidance at 0, or load a reward-conditioned model."
            )
        if not isinstance(output, str) or output not in ("pil", "array"):
            raise ValueError(f"output={shown(output)}: expected 'pil' or 'array'.")

    def _check_finite(self, images: Sequence[np.ndarray]) -> None:
        is_finite = [bool(np.isfinite(image).all()) for image in images]
        if not all(is_finite):
            fault = Failed.not_finite("the edited image", self.base.dtype)
            raise NonFiniteResults([_picture(x) if ok else fault for x, ok in zip(images, is_finite, strict=True)])

    @property
    def _precision(self) -> str | None:
        """Accelerators round the operands of float32 products unless asked not to; a float32 editor asks."""
        return "highest" if jnp.dtype(self.base.dtype) == jnp.float32 else None

    def _inputs(
        self,
        batch: Sequence[EditRequest],
        chosen: Sequence[int],
        low_reward: Reward | None,
        start: StartingNoise,
        stochastic: bool,
    ) -> EditInputs:
        sources, instructions = [request.source for request in batch], [request.instruction for request in batch]
        images = to_unit(np.stack(sources))
        asked = self.base.read(sources, instructions, [request.reward for request in batch], warn_cut)
        return EditInputs(
            source=images,
            asked=self.base.reply(self.params, asked, instructions, start.seeds(chosen)),
            # The same texts again: what is cut was reported above.
            low=self.base.read(sources, instructions, [low_reward] * len(batch), lambda text, tokens: None),
            latents=start.latents(chosen, images.shape),
            noise=start.noise(chosen, images.shape) if stochastic else None,
        )


def _as_output(
    edited: list[np.ndarray], output: str, single: bool
) -> Image.Image | list[Image.Image] | Float[np.ndarray, "b h w 3"]:
    if output == "array":
        if len({image.shape for image in edited}) > 1:
            raise ValueError("the edits have several sizes, which do not fit in one array: ask for output='pil'.")
        return np.stack(edited)
    pictures = [_picture(image) for image in edited]
    return pictures[0] if single else pictures


def _picture(image: Float[np.ndarray, "h w 3"]) -> Image.Image:
    return Image.fromarray(np.uint8(np.round(image * 255)))
