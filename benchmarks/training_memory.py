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
from functools import partial
from pathlib import Path

import jax
from abstract_step import AbstractStep
from ml_collections import ConfigDict

from rewardedit_jax.sharding import make_mesh
from rewardedit_jax.training.compiled_step import StepMemory
from rewardedit_jax.training.recipe import read_recipe

RECIPE = str(Path(__file__).parents[1] / "configs" / "reward_ip2p.py") + ":lora"


def memory(config: ConfigDict, frozen_dtype: str) -> dict[str, int]:
    """Bytes of a step of `config` on one device, with frozen kernels in a type of their own.

    The state, which is donated, counts once. "total" is the sum of all and of what is small: batch, metrics, program.
    """
    step = AbstractStep.of(config, make_mesh(devices=jax.devices()[:1]))
    step = step._replace(frozen=jax.tree.map(partial(_typed, dtype=frozen_dtype), step.frozen))
    # Without the slow half of compilation, which does not change what is kept in memory.
    found = StepMemory.of(step.trace().lower().compile({"xla_backend_optimization_level": 0}))
    kept = {"trained": step.state.params, "moments": step.state.opt_state, "average": step.state.ema}
    sizes = {name: _nbytes(tree) for name, tree in {**kept, "frozen": step.frozen}.items()}
    return {**sizes, "temporary": found.temporary, "total": found.total}


def _typed(leaf: jax.ShapeDtypeStruct, dtype: str) -> jax.ShapeDtypeStruct:
    return leaf.update(dtype=dtype) if leaf.ndim > 1 else leaf  # norms and biases are small


def _nbytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def parse() -> tuple[argparse.Namespace, list[str]]:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default=RECIPE, metavar="FILE", help="a recipe, and settings of it as in training")
    p.add_argument("--frozen", default="bfloat16", help="type of frozen kernels (default: %(default)s)")
    return p.parse_known_args()


def main() -> None:
    a, overrides = parse()
    data = ["--config.data.resolution=512", "--config.data.cache=any"]
    settings = ["--config.batch_size=1", "--config.accumulate=1", *data]
    found = memory(read_recipe(a.config, [*settings, *overrides]), a.frozen)
    print(f"device     {jax.devices()[0].device_kind}")
    for name, size in found.items():
        print(f"{name:10} {size / 1e9:6.2f} GB")


if __name__ == "__main__":
    main()
