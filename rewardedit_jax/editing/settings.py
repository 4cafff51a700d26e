"""The settings of edits on a command line."""

from argparse import ArgumentParser, Namespace
from typing import Any

from rewardedit_jax.diffusion.samplers import SAMPLERS
from rewardedit_jax.editing.editor import NATIVE
from rewardedit_jax.reward import Reward

SCORES = {"nargs": 3, "type": float, "metavar": ("FOLLOWING", "PRESERVING", "QUALITY")}  # of an argument
# Arguments of `Editor.edit`.
_NAMES = ("steps", "sampler", "text_guidance", "image_guidance", "reward_guidance", "tile")


def add_setting_arguments(p: ArgumentParser) -> None:
    """The arguments of `read_settings`, the batch size and the precision."""
    p.add_argument("--steps", type=int, default=30, help="sampling steps (default: %(default)s)")
    p.add_argument("--sampler", choices=SAMPLERS, help="default: the noise process's, euler_ancestral for a DDPM")
    p.add_argument("--text-guidance", type=float, default=7.5, help="weight of the instruction (default: %(default)s)")
    p.add_argument("--image-guidance", type=float, default=1.5, help="weight of the source (default: %(default)s)")
    p.add_argument("--reward-guidance", type=float, default=0.0, help="weight of the reward (default: 0, off)")
    p.add_argument("--low-reward", **SCORES, help="scores that reward guidance leads away from (default: no reward)")
    p.add_argument("--resolution", type=int, help="long side in pixels (default: the model's own)")
    p.add_argument("--tile", type=int, metavar="PIXELS", help="larger images are encoded in tiles (default: none)")
    p.add_argument("--batch-size", type=int, default=4, help="edits at a time (default: %(default)s)")
    dtypes = ("float32", "bfloat16", "float16")
    p.add_argument("--dtype", choices=dtypes, help="default: bfloat16, on a CPU float32")


def read_settings(a: Namespace) -> dict[str, Any]:
    """What a command line says about how edits are made, as arguments of `Editor.edit`."""
    settings = {name: getattr(a, name) for name in _NAMES}
    settings["resolution"] = NATIVE if a.resolution is None else a.resolution
    settings["low_reward"] = Reward(*a.low_reward) if a.low_reward else None
    return settings
