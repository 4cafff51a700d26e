"""A second base editor, of this test suite alone: other components, other conditions, a residual, flow matching.

Latents are 4×4 blocks of pixels. A "reader" turns the words of the instruction and the mean colour of the source into
one vector; a "denoiser" predicts the velocity from noisy latents, with the source as a residual on its first features.
It has no CLIP, no VAE, no U-Net, no condition latents beside the noisy ones, and two guidance branches.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from rewardedit_jax.bases.base import Component, Guidance, Precomputed, Start
from rewardedit_jax.diffusion.process import process_from_config

BLOCK, WORDS = 4, 32
PROCESS = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


@flax.struct.dataclass
class ToyInputs:
    words: Any  # float32[b, WORDS]: counts of hashed words
    colour: Any  # float32[b, 3]: mean of the source, read on the host
    score: Any  # float32[b]: mean of the three scores
    keep: Any  # float32[b]


@flax.struct.dataclass
class ToyConditions:
    vector: Any  # float32[b, d]
    residual: Any  # float32[b, h, w, d]


class Reader(nn.Module):
    """Words, colour and score → one vector."""

    width: int

    @nn.compact
    def __call__(self, words, colour, score):
        return nn.Dense(self.width, name="words")(words) + nn.Dense(self.width, name="rest")(
            jnp.concatenate([colour, score[:, None]], axis=-1)
        )

    def example_inputs(self):
        return jnp.zeros((1, WORDS)), jnp.zeros((1, 3)), jnp.zeros(1)


class Denoiser(nn.Module):
    """Noisy latents, time and conditions → velocity."""

    width: int

    @nn.compact
    def __call__(self, noisy, time, vector, residual):
        x = nn.Dense(self.width, name="conv_in")(noisy) + nn.Dense(self.width, name="residual")(residual)
        x = jnp.tanh(x + vector[:, None, None] + time[:, None, None, None] / 1000)
        return nn.Dense(noisy.shape[-1], name="conv_out")(x)

    def example_inputs(self):
        blocks = jnp.zeros((1, 2, 2, 3 * BLOCK**2))
        return blocks, jnp.zeros(1), jnp.zeros((1, self.width)), blocks


@dataclass(frozen=True)
class ToyBase:
    """The base editor; a `bases.base.Base`."""

    name: ClassVar[str] = "toy"
    pipelines: ClassVar[tuple[str, ...]] = ("ToyPipeline",)
    components: ClassVar[tuple[str, ...]] = ("reader", "denoiser")
    precomputing: ClassVar[tuple[str, ...]] = ()

    reader: Reader
    denoiser: Denoiser
    process: Any

    partition_rules = ((r".*/kernel", P(None, "fsdp")), (r".*/bias", P()))
    dtype = jnp.float32
    has_reward = True
    size_multiple = BLOCK
    native_resolution = 32
    settings: ClassVar[dict] = {}

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return height // BLOCK, width // BLOCK, 3 * BLOCK**2

    def read(self, sources, instructions: Sequence[str], rewards, report_cut) -> ToyInputs:
        words = np.zeros((len(instructions), WORDS), np.float32)
        for row, text in zip(words, instructions, strict=True):
            for word in text.split():
                row[zlib.crc32(word.encode()) % WORDS] += 1
            if len(text.split()) > WORDS:
                report_cut(text, len(text.split()) - WORDS)
        return ToyInputs(
            words,
            np.stack([source.mean((0, 1)) / 255 for source in sources]).astype(np.float32),
            np.float32([5 if reward is None else reward.scores.mean() for reward in rewards]),
            np.float32([reward is not None for reward in rewards]),
        )

    def reply(self, params, inputs, instructions, seeds):
        return inputs

    def reading(self):
        return {"words": WORDS}

    def guide(self, text: float, image: float, reward: float) -> Guidance:
        return Guidance(("with", "without"), np.float32([text, 1 - text]))

    def encode(self, params, images, tile=None):
        b, h, w, _ = images.shape
        blocks = images.reshape(b, h // BLOCK, BLOCK, w // BLOCK, BLOCK, 3)
        return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(b, *self.latent_shape(h, w))

    def precompute(self, params, source, edited, inputs, rng=None):
        return Precomputed(self.encode(params, edited), self.encode(params, source), inputs, ())

    def latents(self, edited, rng):
        return edited

    def decode(self, params, latents, tile=None):
        b, h, w, _ = latents.shape
        blocks = latents.reshape(b, h, w, BLOCK, BLOCK, 3).transpose(0, 1, 3, 2, 4, 5)
        return jnp.clip(blocks.reshape(b, h * BLOCK, w * BLOCK, 3) / 2 + 0.5, 0, 1)

    def draw_keep(self, rng, batch, dropout):
        return {"words": jax.random.bernoulli(rng, 1 - dropout.conditioning, (batch,))}

    def condition(self, params, examples, keep):
        return self._condition(params, examples.source, examples.request, keep["words"])

    def _condition(self, params, source, inputs, keep):
        words = inputs.words * keep[:, None]
        score = inputs.score * inputs.keep
        return ToyConditions(self.reader.apply({"params": params["reader"]}, words, inputs.colour, score), source)

    def condition_branches(self, params, source, inputs, low, branches):
        kept = [self._condition(params, source, inputs, jnp.full(len(source), branch == "with")) for branch in branches]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *kept)

    def denoise(self, params, noisy, times, conditions, rng=None):
        return self.denoiser.apply({"params": params["denoiser"]}, noisy, times, conditions.vector, conditions.residual)

    @classmethod
    def open(cls, directory: Path, dtype, allow_nonfinite=False) -> Start:
        settings = json.loads((directory / "toy.json").read_text())

        def read(name):
            def of_component(wanted):
                flat = load_file(directory / f"{name}.safetensors")
                return unflatten_dict({k: v for k, v in flat.items() if wanted is None or wanted(k)}, sep="/")

            return of_component

        base = cls(Reader(settings["width"]), Denoiser(settings["width"]), process_from_config(settings["process"]))
        parts = {name: Component(getattr(base, name), read=read(name)) for name in cls.components}
        return Start(base, parts)

    @classmethod
    def check_recipe(cls, recipe) -> None:
        if not isinstance(recipe.network.get("width"), int):
            raise ValueError(f"network.width={recipe.network.get('width')!r}: expected an integer")

    @classmethod
    def start(cls, config) -> Start:
        base = cls(Reader(config.network.width), Denoiser(config.network.width), process_from_config(PROCESS))
        return Start(base, {name: Component(getattr(base, name)) for name in cls.components})

    def save(self, params, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name in self.components:
            flat = {k: np.asarray(v) for k, v in flatten_dict(params[name], sep="/").items()}
            save_file(flat, directory / f"{name}.safetensors")
        settings = {"width": self.reader.width, "process": self.process.to_config()}
        (directory / "toy.json").write_text(json.dumps(settings))
        (directory / "model_index.json").write_text(json.dumps({"_class_name": "ToyPipeline"}))
