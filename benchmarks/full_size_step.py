"""One training step of the reward-conditioned editor at Stable Diffusion 1.5's size: its parameters, time and memory.

  python benchmarks/full_size_step.py

No files are read: weights and pictures are random, which changes neither time nor memory. The step is the trainer's
own, with the paper's recipe at 256 px: AdamW in float32, moving average, rematerialisation; one example per step. By
the compiler's count it needs 17.3 GiB on the CPU: 13.5 for parameters, moments, average and frozen networks, 3.8 for
gradients and activations. The first step compiles for two minutes.
"""

import argparse
import resource
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from networks import make_base

from rewardedit_jax.bases.base import Dropout
from rewardedit_jax.bases.instruct_pix2pix import Inputs, InstructPix2Pix
from rewardedit_jax.bases.stable_diffusion import recipe_reward
from rewardedit_jax.data.pipeline import EditBatch
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.params import Params, abstract_params
from rewardedit_jax.sharding import global_batch, infer_shardings, make_mesh
from rewardedit_jax.training.compiled_step import compile_step
from rewardedit_jax.training.loop import initial_params
from rewardedit_jax.training.optimizer import make_optimizer
from rewardedit_jax.training.step import TrainState, create_state

RECIPE = Path(__file__).parents[1] / "configs" / "reward_ip2p.py"


class Measured(NamedTuple):
    trained: int  # parameters
    frozen: int
    first_seconds: float  # a step with its compilation
    seconds: float  # a step without
    loss: float
    peak_gib: float  # of the process, from its start


class RandomEditing(EditingTask):
    """The editing task with random weights and pictures, in place of a model directory and data."""

    def __init__(self, base: InstructPix2Pix, config: ConfigDict):
        self.config, self.trainable, self.base = config, tuple(config.trainable), base
        self.dropout = Dropout(config.conditioning_dropout, config.reward.dropout)
        self.cache = None

    def abstract_params(self) -> Params:
        return {name: abstract_params(getattr(self.base, name)) for name in self.base.components}

    def init(self, rng: jax.Array, wanted: Callable[[str], bool] | None = None) -> Params:
        draw = np.random.default_rng(0).standard_normal
        # Small enough for a finite loss.
        small = lambda leaf: np.multiply(draw(leaf.shape, np.float32), 0.02, dtype=leaf.dtype)  # noqa: E731
        return jax.tree.map(small, self.abstract_params())

    def batches(self, start: int, split: str = "train") -> Iterator[EditBatch]:
        draw, b, side = np.random.default_rng(start), self.config.batch_size, self.config.data.resolution
        text = self.base.text_encoder.config
        while True:
            source, edited = draw.integers(0, 256, (2, b, side, side, 3), np.uint8)
            ids = draw.integers(0, text.vocab_size, (2, b, text.max_position_embeddings), np.int32)
            scores = draw.uniform(0, 5, (b, 3)).astype(np.float32)
            texts = {"instruction_ids": ids[0], "null_ids": np.zeros_like(ids[0]), "reward_ids": ids[1]}
            inputs = Inputs(**texts, scores=scores, keep=np.ones(b, np.float32))
            yield EditBatch(source, edited, inputs)


def full_size_config() -> ConfigDict:
    """The paper's recipe, one example at a time, in float32."""
    config = runpy.run_path(str(RECIPE))["get_config"]()
    config.batch_size = config.accumulate = 1
    config.compute.dtype = "float32"
    return config


def full_size_base(config: ConfigDict) -> InstructPix2Pix:
    """Stable Diffusion 1.5 with 8 input channels and the recipe's reward modules."""
    # The autoencoder computes in float32. The tokenizer is not used: texts are random tokens too.
    return make_base("full", config.compute.dtype, remat=config.compute.remat, reward=recipe_reward(config.reward))


def measure(base: InstructPix2Pix, config: ConfigDict) -> Measured:
    """Two steps, the first of which compiles; placed, sharded and donated as the trainer does it."""
    task, mesh = RandomEditing(base, config), make_mesh(**config.mesh)
    show("drawing weights")
    trained, frozen = initial_params(task, config, mesh)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (trained, frozen)]
    show(f"{sizes[0] / 1e6:.1f} M parameters train, {sizes[1] / 1e6:.1f} M are frozen; making the optimizer's state")
    optimizer = make_optimizer(config.optimizer, config.steps)
    create = partial(create_state, optimizer=optimizer, ema=True)
    shardings = infer_shardings(jax.eval_shape(create, trained), task.partition_rules, mesh)
    state: TrainState = jax.jit(create, out_shardings=shardings, donate_argnums=0)(trained)
    del trained  # taken over by the state
    step = compile_step(task, config, optimizer, mesh, shardings, frozen)
    seconds, batches = [], task.batches(0)
    for phase in ("first step, with compilation", "second step"):
        batch = global_batch(next(batches), mesh)
        show(phase)
        begin = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, frozen, batch))
        seconds.append(time.perf_counter() - begin)
    return Measured(*sizes, *seconds, float(metrics["loss"]), peak_gib())


def peak_gib() -> float:
    """The most memory that this process has held so far. Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def show(text: str) -> None:
    print(f"{peak_gib():5.1f} GiB  {text} ...", flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    config = full_size_config()
    got = measure(full_size_base(config), config)
    print(f"device            {jax.devices()[0].device_kind}")
    print(f"trained           {got.trained / 1e6:.1f} M parameters")
    print(f"frozen            {got.frozen / 1e6:.1f} M parameters")
    print(f"first step        {got.first_seconds:.1f} s, with compilation")
    print(f"step              {got.seconds:.1f} s, loss {got.loss:.3f}")
    print(f"peak host memory  {got.peak_gib:.2f} GiB")


if __name__ == "__main__":
    main()
