"""Memory of one training step of the editor at Stable Diffusion 1.5's size, by XLA's own count; nothing is computed.

  python benchmarks/training_memory.py                                       # LoRA, 512 px, batch 1
  python benchmarks/training_memory.py --config configs/reward_ip2p.py       # the U-Net as a whole
  python benchmarks/training_memory.py --frozen float32 --config configs/reward_ip2p.py:lora \
    --config.optimizer.mu_dtype=bfloat16

The step is the trainer's own with cached latents and text states (launch/cache.py), so that of the networks the U-Net
alone is there. It is compiled for the device that JAX has. On a CPU the number stands in for an accelerator's: XLA's
CPU backend computes bfloat16 products in float32, with copies that an accelerator does not make.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from full_size_step import full_size_base
from ml_collections import ConfigDict

from rewardedit_jax.bases.base import Component, Dropout, Precomputed
from rewardedit_jax.bases.instruct_pix2pix import Inputs, InstructPix2Pix
from rewardedit_jax.bases.low_rank import with_lora
from rewardedit_jax.editing.objective import editing_loss
from rewardedit_jax.params import Params, abstract_params, split_params
from rewardedit_jax.training.optimizer import make_optimizer, make_schedule
from rewardedit_jax.training.recipe import read_recipe
from rewardedit_jax.training.step import TrainState, create_state, train_step

RECIPE = str(Path(__file__).parents[1] / "configs" / "reward_ip2p.py") + ":lora"


class Memory(NamedTuple):
    """Bytes. What is donated, the state, is counted once."""

    trained: int  # parameters that train
    moments: int
    average: int
    frozen: int
    temporary: int  # gradients, activations and copies
    total: int  # the sum of these and of what is small: batch, metrics


def memory(config: ConfigDict, frozen_dtype: str) -> Memory:
    """The memory of a step of `config` with frozen kernels in a type of their own."""
    base = full_size_base(config)
    base = replace(base, unet=with_lora({"unet": Component(base.unet)}, config.get("lora"))["unet"].module)
    trained, frozen = split_params({"unet": abstract_params(base.unet)}, tuple(config.trainable))
    frozen = jax.tree.map(partial(_typed, dtype=frozen_dtype), frozen)
    optimizer, ema = make_optimizer(config.optimizer, config.steps), config.optimizer.ema_decay
    state: TrainState = jax.eval_shape(partial(create_state, optimizer=optimizer, ema=ema is not None), trained)
    dropout = Dropout(config.conditioning_dropout, config.reward.dropout)
    step = partial(
        train_step,
        loss_fn=lambda params, batch, rng: (editing_loss(base, params, dropout, batch, rng), {}),
        optimizer=optimizer,
        schedule=make_schedule(config.optimizer, config.steps),
        accumulate=config.accumulate,
        ema_decay=ema,
    )
    lowered = jax.jit(step, donate_argnums=0).lower(state, frozen, _examples(base, config), np.uint32(0))
    # Without the slow half of compilation, which does not change what is kept in memory.
    found = lowered.compile({"xla_backend_optimization_level": 0}).memory_analysis()
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    total = found.argument_size_in_bytes + found.temp_size_in_bytes + new
    sizes = [_nbytes(tree) for tree in (state.params, state.opt_state, state.ema, frozen)]
    return Memory(*sizes, found.temp_size_in_bytes, total)


def _typed(leaf: jax.ShapeDtypeStruct, dtype: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, dtype) if leaf.ndim > 1 else leaf  # norms and biases are small


def _nbytes(tree: Params) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _examples(base: InstructPix2Pix, config: ConfigDict) -> Precomputed:
    """Shapes of the examples of a step, after the networks that precompute."""
    b, side = config.batch_size * config.accumulate, config.data.resolution
    picture, text = jax.ShapeDtypeStruct((b, side, side, 3), jnp.float32), base.text_encoder.config
    ids = jax.ShapeDtypeStruct((b, text.max_position_embeddings), jnp.int32)
    scores, keep = jax.ShapeDtypeStruct((b, 3), jnp.float32), jax.ShapeDtypeStruct((b,), jnp.float32)
    inputs = Inputs(instruction_ids=ids, null_ids=ids, reward_ids=ids, scores=scores, keep=keep)
    params = {name: abstract_params(getattr(base, name)) for name in base.precomputing}
    return jax.eval_shape(base.precompute, params, picture, picture, inputs)


def parse() -> tuple[argparse.Namespace, list[str]]:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default=RECIPE, metavar="FILE", help="a recipe, and settings of it as in training")
    p.add_argument("--frozen", default="bfloat16", help="type of frozen kernels (default: %(default)s)")
    return p.parse_known_args()


def main() -> None:
    a, overrides = parse()
    settings = ["--config.batch_size=1", "--config.accumulate=1", "--config.data.resolution=512"]
    found = memory(read_recipe(a.config, [*settings, *overrides]), a.frozen)
    print(f"device     {jax.devices()[0].device_kind}")
    for name, size in found._asdict().items():
        print(f"{name:10} {size / 1e9:6.2f} GB")


if __name__ == "__main__":
    main()
