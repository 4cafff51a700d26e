"""Published weight files that are no model directories: a network is one file of a known name, or several."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
from flax.traverse_util import flatten_dict

from rewardedit_jax.params import Params, abstract_params
from rewardedit_jax.weights.engine import UnusableTensor, WeightMismatch, WeightTable, import_tensors
from rewardedit_jax.weights.files import TensorFiles, WeightFileError

_SUFFIXES = (".safetensors", ".pth")


class PublishedFile(NamedTuple):
    """A weight file under the name that its authors gave it."""

    stem: str  # the name without suffix, `.safetensors` or `.pth`
    where: str  # an address, or how to get it


def describe(files: Iterable[PublishedFile]) -> str:
    """The names of the files and where to get them, for error messages."""
    return "; ".join(f"{file.stem}.pth (or .safetensors) from {file.where}" for file in files)


def read_published(module: nn.Module, table: WeightTable, directory: Path, files: Sequence[PublishedFile]) -> Params:
    """The parameters of a network from published files in a folder, as NumPy arrays.

    Raises:
      FileNotFoundError: files are not there, and the others lack what the network needs; says where to get them.
      WeightFileError: a damaged file, or values that are not finite.
      UnsafePickle: a file of PyTorch with anything else than tensors.
      WeightMismatch: the files do not fit the network.
    """
    paths = {file: _find(directory, file.stem) for file in files}
    tensors = TensorFiles(path for path in paths.values() if path)
    abstract, missing = abstract_params(module), [file for file, path in paths.items() if path is None]
    # One file may have everything, such as a network and its heads.
    filled = {rule.to_path(name) for name in tensors for rule in table.rules}
    if missing and not flatten_dict(abstract, sep="/").keys() <= filled:
        raise FileNotFoundError(f"not in {directory}: {describe(missing)}")
    try:
        return import_tensors(tensors, table, abstract)
    except WeightMismatch as error:
        names = ", ".join(path.name for path in paths.values() if path)
        raise WeightMismatch(f"{directory}, {names}: {error}") from error
    except UnusableTensor as error:
        raise WeightFileError(f"{tensors.file_of(error.tensor)}: {error}") from error


def _find(directory: Path, stem: str) -> Path | None:
    paths = (directory / f"{stem}{suffix}" for suffix in _SUFFIXES)
    return next((path for path in paths if path.is_file()), None)
