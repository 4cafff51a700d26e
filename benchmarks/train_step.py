"""A training step of the reward-conditioned editor from a cache, beside diffusers' U-Net with the same modules added.

  python benchmarks/train_step.py          # Stable Diffusion 1.5 in bfloat16 on an accelerator, growing batches
  python benchmarks/train_step.py --small  # widths 320 and 640 in float32, on a CPU

Both sides do the whole step of the recipe: noise, loss, gradients, clipping, AdamW and moving average, with parameters
in float32. Weights and examples are random; the autoencoder and the text encoder have no part in it. PyTorch runs
eagerly and compiled. The floor is the larger of two times: that of the step's matrix products and convolutions, three
times those of the forward pass, at the rate of a large product on this device, and that of reading and writing
parameters, gradients, moments and average once. MFU takes the peak of the data sheet in place of that rate.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from networks import cached_examples, draw, make_base
from reporting import print_rows
from timing import Row, Variant, floor_seconds, guarded, import_peer, matmul_flops, take_turns, timed_rows, utilisation

from rewardedit_jax.bases.base import Dropout, Precomputed
from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.editing.objective import editing_loss
from rewardedit_jax.params import abstract_params
from rewardedit_jax.training.optimizer import make_optimizer, make_schedule
from rewardedit_jax.training.step import create_state, train_step

Variants = dict[str, Variant]
ROUNDS = 7
# (side of the latents, batch size) that both sides run, and then further batch sizes of this package alone.
COMPARED = {"tiny": (8, 1), "small": (32, 2), "full": (32, 16)}
GROWING = {"tiny": (), "small": (), "full": ((64, 8), (32, 48), (64, 12), (32, 64), (64, 16))}
_OPTIMIZER = {"learning_rate": 5e-5, "schedule": "constant", "warmup_steps": 0, "b1": 0.9, "b2": 0.999, "eps": 1e-8,
              "weight_decay": 1e-2, "clip_norm": 1.0, "mu_dtype": None}  # fmt: skip


def make_step(base: InstructPix2Pix) -> tuple[Any, Callable[..., tuple[Any, dict[str, jax.Array]]]]:
    """(state, the trainer's step compiled), on the U-Net alone."""
    settings = ConfigDict(_OPTIMIZER, type_safe=False)
    optimizer = make_optimizer(settings, 1000)
    create = jax.jit(partial(create_state, optimizer=optimizer, ema=True), donate_argnums=0)
    state = create({"unet": draw(abstract_params(base.unet))})

    def loss(params: Any, examples: Precomputed, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return editing_loss(base, params, Dropout(0.05, 0.0), examples, rng), {}

    schedule = make_schedule(settings, 1000)
    step = partial(train_step, loss_fn=loss, optimizer=optimizer, schedule=schedule, accumulate=1, ema_decay=0.9999)
    return state, partial(jax.jit(step, donate_argnums=0), frozen={}, seed=jnp.uint32(0))


class Stepping:
    """Steps, one per call, on a state that each of them replaces."""

    def __init__(self, base: InstructPix2Pix):
        self.state, self._step = make_step(base)

    def on(self, examples: Precomputed) -> Callable[[], jax.Array]:
        def run() -> jax.Array:
            self.state, metrics = self._step(self.state, batch=examples)
            return metrics["loss"]

        return run


def step_flops(base: InstructPix2Pix, examples: Precomputed) -> int:
    """Model FLOPs: each product of the forward pass has two of its size in the backward pass."""
    params = {"unet": abstract_params(base.unet)}
    loss = partial(editing_loss, base, dropout=Dropout(0.0, 0.0), rng=jax.random.key(0))
    return 3 * matmul_flops(lambda p, e: loss(params=p, examples=e), params, examples)


def state_bytes(state: Any) -> int:
    """The least traffic of an update: parameters, moments and average read and written, gradients written and read."""
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    return 2 * size + 2 * sum(x.nbytes for x in jax.tree.leaves(state.params))


def rows(size: str) -> Iterator[Row]:
    dtype = "bfloat16" if size == "full" else "float32"
    base = make_base(size, dtype)
    side, batch = COMPARED[size]
    stepping, examples = Stepping(base), cached_examples(base, batch, side)
    run, begin = stepping.on(examples), time.perf_counter()
    jax.block_until_ready(run())
    yield Row(f"{_case(side, batch)}: first step", time.perf_counter() - begin, "s", note="compilation included")
    yield from _measured(base, stepping, {"rewardedit_jax": run}, examples)
    peer, reason = import_peer("diffusers")
    if peer is None:
        yield Row("PyTorch", note=reason)
    else:
        variants = {"rewardedit_jax": run}
        yield from guarded(_beside(peer, base, stepping, variants, examples, compiled=False), "PyTorch, eager")
        if size != "tiny":
            yield from guarded(_beside(peer, base, stepping, variants, examples, compiled=True), "PyTorch, compiled")
    yield from _growing(base, stepping, size)


def _beside(
    peer: ModuleType, base: InstructPix2Pix, stepping: Stepping, ours: Variants, examples: Precomputed, compiled: bool
) -> Iterator[Row]:
    """A row of PyTorch, in rounds with this package. It gives its memory back afterwards."""
    with peer.freed():
        unet = peer.make_unet(base.unet.config)
        run, begin = peer.training_step(unet, examples, base.dtype, compiled), time.perf_counter()
        run()
        name = "PyTorch, compiled" if compiled else "PyTorch, eager"
        yield Row(f"{name}: first step", time.perf_counter() - begin, "s")
        yield from islice(_measured(base, stepping, {**ours, name: run}, examples), 1, None)
        del unet, run


def _growing(base: InstructPix2Pix, stepping: Stepping, size: str) -> Iterator[Row]:
    """Larger and larger batches, each resolution until its first that does not fit."""
    full = set()
    for side, batch in GROWING[size]:
        if side in full:
            continue
        examples = cached_examples(base, batch, side)
        try:
            yield from _measured(base, stepping, {"rewardedit_jax": stepping.on(examples)}, examples)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            full.add(side)
            yield Row(_case(side, batch), note="does not fit in memory")
            stepping = Stepping(base)  # the state was donated to the step that failed


def _measured(base: InstructPix2Pix, stepping: Stepping, variants: Variants, examples: Precomputed) -> Iterator[Row]:
    (batch, side), dtype = examples.source.shape[:2], jnp.dtype(base.dtype).name
    flops = step_flops(base, examples)
    floor = floor_seconds(flops, state_bytes(stepping.state), dtype)
    for row in timed_rows(f"{_case(side, batch)}, {dtype}", take_turns(variants, ROUNDS), floor):
        seconds = row.value / 1e3
        more = {"samples/s": batch / seconds, "TFLOP": flops / 1e12, **utilisation(flops, seconds)}
        yield replace(row, more=more)


def _case(side: int, batch: int) -> str:
    return f"train step, {8 * side} px, batch {batch}"


if __name__ == "__main__":
    print_rows(__doc__, rows)
