"""Low-rank differences (LoRA) among the tensors of a network: found, added to its weights, or put beside them.

Names and layouts are those of the files of this project: `T.weight`, and for a difference `T.lora_A.default.weight`
[rank, in] and `T.lora_B.default.weight` [out, rank], where T is a module of torch. Everything is computed when it is
written (`streaming.LazyTensor`).
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from rewardedit_jax.weights.streaming import LazyTensor

_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


class Difference(NamedTuple):
    """scale · b a, which is added to a weight. A layer that torch keeps as 1×1 convolution has two more axes of 1."""

    a: LazyTensor  # [r, in]
    b: LazyTensor  # [out, r]
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


class Scaling(NamedTuple):
    """Rank and alpha of all layers of a network."""

    rank: int
    alpha: float


def split_differences(
    tensors: Mapping[str, LazyTensor], scale: float
) -> tuple[dict[str, LazyTensor], dict[str, Difference]]:
    """(the other tensors, the differences by their modules) of a network whose differences have one scale."""
    modules = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
    differences = {module: Difference(tensors[module + _A], tensors[module + _B], scale) for module in modules}
    return {name: x for name, x in tensors.items() if not name.endswith((_A, _B))}, differences


def add_differences(tensors: Mapping[str, LazyTensor], differences: Mapping[str, Difference]) -> dict[str, LazyTensor]:
    """The tensors of the network without LoRA that computes the same (Hu et al., "LoRA", 2021)."""
    return {**tensors, **{(name := f"{module}.weight"): _sum(tensors[name], d) for module, d in differences.items()}}


def join_differences(
    tensors: Mapping[str, LazyTensor], differences: Mapping[str, Difference]
) -> tuple[dict[str, LazyTensor], Scaling]:
    """The tensors with the differences beside them, and their rank and alpha, which are the same for all layers here.

    Where files have a rank and a scale for each layer, the ranks are filled up with zeros, and the scales go into B.
    The network computes the same, and zeros stay zeros in training: each has the other as a factor of its gradient.
    """
    (rank, scale), *others = {(d.rank, d.scale) for d in differences.values()}
    if others or scale <= 0:  # alpha is a positive number here
        rank, scale = max(d.rank for d in differences.values()), 1.0
    beside = {}
    for module, d in differences.items():
        beside[module + _A] = _filled(d.a, rank, axis=0)
        beside[module + _B] = _filled(d.b, rank, axis=1, factor=d.scale / scale)
    return {**tensors, **beside}, Scaling(rank, scale * rank)


def common_type(*tensors: LazyTensor) -> np.dtype:
    """The type that holds the numbers of all tensors."""
    types = {tensor.dtype for tensor in tensors}
    # NumPy knows no common type of float16 and bfloat16: neither holds the numbers of the other.
    return types.pop() if len(types) == 1 else np.dtype(np.float32)


def cast(tensor: LazyTensor, dtype: np.dtype) -> LazyTensor:
    return LazyTensor(dtype, tensor.shape, lambda: tensor.make().astype(dtype))


def target_patterns(chosen: Collection[str], layers: Collection[str]) -> tuple[str, ...]:
    """Regexes that match the chosen ones among the paths of layers, and no others.

    One regex for all paths that differ in numbers alone, where it matches no further layer; else one for each path.
    """
    short = {re.sub(r"\d+", r"\\d+", re.escape(path)) for path in chosen}
    matched = {path for path in layers if any(re.fullmatch(pattern, path) for pattern in short)}
    return tuple(sorted(short if matched == set(chosen) else map(re.escape, chosen)))


def _sum(weight: LazyTensor, d: Difference) -> LazyTensor:
    dtype = common_type(weight, d.a, d.b)

    def make() -> np.ndarray:
        w, a, b = (tensor.make().astype(np.float32) for tensor in (weight, d.a, d.b))
        product = b.reshape(len(b), -1) @ a.reshape(len(a), -1)
        return (w + np.float32(d.scale) * product.reshape(w.shape)).astype(dtype)

    return LazyTensor(dtype, weight.shape, make)


def _filled(tensor: LazyTensor, rank: int, axis: int, factor: float = 1.0) -> LazyTensor:
    """The tensor with its axis of the rank filled up with zeros, multiplied by the factor."""
    lacking = [(0, rank - size if i == axis else 0) for i, size in enumerate(tensor.shape)]
    if factor == 1 and not any(after for _, after in lacking):
        return tensor  # as it is in the file, bit by bit
    shape = tuple(size + after for size, (_, after) in zip(tensor.shape, lacking, strict=True))
    # A factor could leave the range of half precision.
    dtype = tensor.dtype if factor == 1 else np.dtype(np.float32)

    def make() -> np.ndarray:
        return np.pad(tensor.make().astype(dtype) * dtype.type(factor), lacking)

    return LazyTensor(dtype, shape, make)


def lora_settings(scaling: Scaling, targets: tuple[str, ...]) -> dict[str, Any]:
    """The settings under "lora" in the config.json of a network."""
    return {"rank": scaling.rank, "alpha": scaling.alpha, "targets": list(targets), "dropout": 0.0}
