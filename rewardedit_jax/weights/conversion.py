"""What conversions of published weights share: tensors on their way from file to file, and a pipeline being written.

No tensor is read before its turn to be written comes, and none is kept: the memory that a conversion takes does not
depend on the size of the model. Only names, types and shapes of all tensors are known before.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from tqdm import tqdm

from rewardedit_jax.params import Params, abstract_params
from rewardedit_jax.weights.engine import (
    Transform,
    WeightMismatch,
    WeightTable,
    check_shape,
    match_tensors,
    raise_faults,
)
from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.files import TensorFiles, write_json, write_weights
from rewardedit_jax.weights.kinds import NetworkKind
from rewardedit_jax.weights.saving import replace_model
from rewardedit_jax.weights.streaming import WEIGHT_TYPES, LazyTensor

_STATUS = Path("/proc/self/status")  # Linux has it


class Part(NamedTuple):
    """A component directory to be written."""

    config: dict[str, Any]  # its config.json
    tensors: dict[str, LazyTensor]
    stem: str  # of its weight file


class Written(NamedTuple):
    """What a conversion has written."""

    tensors: int
    size: int  # bytes of the tensors
    peak: int | None  # bytes of memory that the process has used at most; None: the system does not say


def lazy_tensors(files: TensorFiles, prefix: str = "") -> dict[str, LazyTensor]:
    """The tensors of files, each read when it is made, under their names without `prefix`."""
    return {
        name.removeprefix(prefix): LazyTensor(files.dtypes[name], shape, lambda name=name: files[name])
        for name, shape in files.shapes.items()
    }


def rename_tensors(tensors: Mapping[str, LazyTensor], table: WeightTable, abstract: Params) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint under the names that `export_tensors` writes.

    Names of older files, which a table has as aliases, become those of today; ignored tensors are left out.

    Raises:
      WeightMismatch: as `import_tensors`.
    """
    shapes, faults, renamed = flatten_dict(abstract, sep="/"), [], {}
    for path, (name, transform) in match_tensors(tensors, table, shapes, faults).items():
        tensor = tensors[name]
        # One element, seen as the whole: it takes no memory, and transforms do to it what they do to the tensor.
        standin = transform.to_jax(np.broadcast_to(np.float32(0), tensor.shape))
        check_shape(path, name, standin, shapes[path].shape, faults)
        (torch_name,) = table.torch_names(path)
        # A tensor of another shape may lack the axes that a transform exchanges.
        shape = transform.to_torch(standin).shape if not faults else ()
        renamed[torch_name] = LazyTensor(tensor.dtype, shape, _in_standard_layout(tensor, transform))
    raise_faults(faults)
    return renamed


def _in_standard_layout(tensor: LazyTensor, transform: Transform) -> Callable[[], np.ndarray]:
    # Older autoencoders have 1×1 convolutions where today's have dense layers.
    return lambda: transform.to_torch(transform.to_jax(tensor.make()))


def network_part(
    source: Path | str, kind: NetworkKind, config: dict[str, Any], tensors: Mapping[str, LazyTensor], advice: str = ""
) -> Part:
    """A network of a published file, checked against its config.

    Args:
      source: its file or folder, for error messages.
      advice: the last line of a message about tensors.
    Raises:
      WeightFileError: a setting that is not supported.
      WeightMismatch: names the tensors that are missing, too much, or of another shape.
    """
    try:
        module = kind.make(config, {name: tensor.shape for name, tensor in tensors.items()})
        renamed = rename_tensors(tensors, kind.table(module.config), abstract_params(module))
    except WeightMismatch as error:
        raise WeightMismatch("\n".join([f"{source}: {error}", *([advice] if advice else [])])) from error
    except ValueError as error:
        raise WeightFileError(f"{source}: {error}") from error
    return Part(config, renamed, kind.stem)


def write_parts(parts: Mapping[str, Part], directory: Path, beside: Callable[[Path], None]) -> Written:
    """Write a pipeline directory in place of the one that is there; if anything fails, that one stays.

    Args:
      parts: folder → its network.
      beside: writes all other files into the folder that it is given.
    Raises:
      WeightFileError: a tensor that is not of floating-point numbers; nothing has been written.
      OSError: not enough space, which is checked before, or another fault of the disk.
    """
    for folder, part in parts.items():
        _check_types(folder, part.tensors)
    sizes = [tensor.nbytes for part in parts.values() for tensor in part.tensors.values()]
    _check_space(directory, sum(sizes))
    with replace_model(directory) as new, tqdm(total=sum(sizes), unit="B", unit_scale=True) as bar:
        for folder, part in parts.items():
            bar.set_description(folder)
            write_weights(part.tensors, new / folder, part.stem, bar.update)
            write_json(part.config, new / folder / "config.json")
        beside(new)
    return Written(len(sizes), sum(sizes), peak_memory())


def _check_types(folder: str, tensors: Mapping[str, LazyTensor]) -> None:
    allowed = [np.dtype(type_) for type_ in WEIGHT_TYPES.values()]
    if wrong := [name for name, tensor in tensors.items() if tensor.dtype not in allowed]:
        raise WeightFileError(
            f"{folder}: tensor {wrong[0]} has type {tensors[wrong[0]].dtype}: expected floating-point numbers, as "
            "quantised weights are not supported."
        )


def _check_space(directory: Path, needed: int) -> None:
    # Now, not after the ten minutes that a large model takes. The old model stays until the new one is complete.
    wanted = directory.expanduser().absolute()
    existing = next(folder for folder in (wanted, *wanted.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OSError(f"{directory}: {needed / 1e9:.1f} GB are to be written, and {free / 1e9:.1f} GB are free there.")


def peak_memory() -> int | None:
    """The most memory that this process has used so far, in bytes; None where the system does not say."""
    # Not getrusage: its number begins with that of the process which started this one.
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()) if _STATUS.is_file() else None
    return 1024 * int(found[1]) if found else None
