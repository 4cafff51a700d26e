"""Networks that embed images and texts for a metric: loading them, applying them, and the cosine of two embeddings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from rewardedit_jax.params import Params
from rewardedit_jax.weights.files import WeightFileError, choose_entry_file
from rewardedit_jax.weights.hub import ModelNotFound, find_model
from rewardedit_jax.weights.pretrained import open_pretrained

Module = TypeVar("Module", bound=nn.Module)


def find_network(directory: str | Path, hub_id: str) -> Path:
    """The local directory of a metric's network.

    Args:
      directory: a folder with config.json and weights, or a hub id.
      hub_id: of the published network, for the message.
    Raises:
      ModelNotFound: a FileNotFoundError that says where to get the weights.
    """
    where = f"The published weights are {hub_id} on the Hugging Face hub: give this id, or a folder with its files."
    try:
        found = find_model(directory, ())
    except ModelNotFound as error:
        raise ModelNotFound(f"{error} {where}") from error
    if choose_entry_file(file.name for file in found.iterdir()) is None:
        raise ModelNotFound(f"{found} has a config.json, but no weights. {where}")
    return found


def load_network(
    directory: Path, expected: type[Module], wanted: Callable[[str], bool] | None = None
) -> tuple[Module, Params]:
    """The network in a directory, computing in float32, and its parameters on the default device.

    Args:
      expected: the kind of network; another one is a WeightFileError.
      wanted: whether the parameter of a path is read; None: all.
    """
    network = open_pretrained(directory)
    if not isinstance(network.module, expected):
        raise WeightFileError(
            f"{directory} holds a {type(network.module).__name__}: expected a {expected.__name__} for this metric."
        )
    return network.module, jax.device_put(network.read(wanted))


def apply(
    module: nn.Module, params: Params, inputs: Any, method: Callable[..., Any] | None = None
) -> Float32[np.ndarray, "b *d"]:
    """What a network, or a method of it, gives for a batch; products are computed in full float32."""
    # Accelerators round the operands of float32 products (TF32, bfloat16) unless the highest precision is set.
    with jax.default_matmul_precision("highest"):
        return np.asarray(_apply(module, params, inputs, method))


@partial(jax.jit, static_argnums=(0, 3))
def _apply(module: nn.Module, params: Params, inputs: Array, method: Callable[..., Any] | None) -> Array:
    return module.apply({"params": params}, inputs, method=method)


def unit_length(x: Float[np.ndarray, "b d"]) -> Float64[np.ndarray, "b d"]:
    """The vectors divided by their length; those of length 0 stay 0."""
    x = np.asarray(x, np.float64)
    # A length below this is a rounding error of the embeddings, which have lengths of about 1 to 100.
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-8)


def cosine_similarity(a: Float[np.ndarray, "b d"], b: Float[np.ndarray, "b d"]) -> Float64[np.ndarray, " b"]:
    """The cosine of the angle between each row of `a` and that of `b`, in float64; 0 where one of them is 0."""
    return (unit_length(a) * unit_length(b)).sum(axis=-1)
