"""Low-rank adaptation (Hu et al., "LoRA", 2021): trained differences of chosen kernels, and merging them.

`layers.Dense` adds them. A dense layer with kernel W computes x W + scale · dropout(x) A B. Names and start are those
of the package peft: A is drawn, B is zero, so that the network first computes what it did without.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rewardedit_jax.params import Params


@dataclass(frozen=True)
class LoRA:
    """Which dense layers have low-rank differences, and of what size. Raises ValueError for a setting out of range."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # regexes of whole module paths, as of parameters without "/kernel"
    dropout: float = 0.0  # of the input of A, where the caller gives random numbers named "lora"

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} of LoRA: expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} of LoRA: expected at least 0 and less than 1")
        if not self.targets:
            raise ValueError("targets=() of LoRA: expected at least one regex of module paths")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LoRA":
        """The settings under "lora" in the config.json of a network."""
        return cls(**{**config, "targets": tuple(config["targets"])})

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def applies(self, path: str) -> bool:
        """Whether the dense layer at a module path has a low-rank difference."""
        return any(re.fullmatch(target, path) for target in self.targets)


def merge_lora(params: Params, lora: LoRA) -> Params:
    """The parameters of the network without LoRA that computes the same: kernel + scale · A B, without A and B.

    Computed on the host in float32, kernel by kernel, and rounded to the kernel's type. Merged kernels are NumPy
    arrays; all other parameters are those given.
    """
    flat = flatten_dict(params, sep="/")
    merged = {path: leaf for path, leaf in flat.items() if not path.endswith(("/lora_a", "/lora_b"))}
    for path in flat:
        module, _, name = path.rpartition("/")
        if name == "lora_a":
            a, b, kernel = (np.asarray(flat[f"{module}/{n}"], np.float32) for n in ("lora_a", "lora_b", "kernel"))
            merged[f"{module}/kernel"] = (kernel + lora.scale * (a @ b)).astype(flat[f"{module}/kernel"].dtype)
    return unflatten_dict(merged, sep="/")
