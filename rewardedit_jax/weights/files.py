"""Weight files of a component directory: choosing them, reading them tensor by tensor, and writing them.

Files have the names that diffusers and transformers write: `diffusion_pytorch_model.safetensors` or
`model.safetensors`, in one file or in shards with an `…index.json`, in full precision or as an fp16/bf16 variant. Where
there are none, files of PyTorch are read (`pytorch_model.bin`, `model.pth`). Quantised weights and other formats are
refused.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from absl import logging
from safetensors import SafetensorError, safe_open

from rewardedit_jax.data import json_files
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.weights.faults import AGAIN, WeightFileError, impostor
from rewardedit_jax.weights.streaming import TYPES, WEIGHT_TYPES, LazyTensor, write_safetensors
from rewardedit_jax.weights.torch_legacy import read_torch_legacy
from rewardedit_jax.weights.torch_tensors import TorchTensors
from rewardedit_jax.weights.torch_zip import is_legacy, read_torch_zip

STEMS = ("diffusion_pytorch_model", "model")
_SAFE = ".safetensors"
_TORCH = (".bin", ".pth", ".pt", ".ckpt")
_TORCH_STEMS = ("diffusion_pytorch_model", "pytorch_model", "model")
VARIANTS = ("", ".fp16", ".bf16")  # in order of preference
_OTHER_FORMATS = (".gguf", ".ggml", ".onnx", ".msgpack", ".h5", ".npz")
_LARGEST_SHARD = 5_000_000_000  # bytes, as transformers 4 has it


_Header = dict[str, tuple[tuple[int, ...], np.dtype]]  # tensor name → shape, type


class _Index(msgspec.Struct):
    """The index of a model in shards."""

    weight_map: dict[str, str]  # tensor name → name of its shard, in the same folder


class TensorFiles(Mapping):  # of str and np.ndarray: with these, a check of types at run time would read a tensor
    """The tensors of safetensors files and of files of PyTorch, each read when it is accessed.

    `shapes`, `dtypes`: tensor name → shape, type. A tensor that is in two files is a WeightFileError, and so is one of
    a type that is not supported, such as float8.
    """

    def __init__(self, files: Iterable[Path]):
        self._file_of: dict[str, Path] = {}
        self._torch: dict[Path, TorchTensors] = {}  # opened once, as a pickle takes longer to read than a header
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        for file in files:
            header = _safetensors_header(file) if file.suffix == _SAFE else self._torch_header(file)
            for name, (shape, dtype) in header.items():
                if name in self._file_of:
                    raise WeightFileError(f"tensor {name} is in {self.file_of(name)} and in {file.name}. {AGAIN}")
                self._file_of[name], self.shapes[name], self.dtypes[name] = file, shape, dtype

    def _torch_header(self, file: Path) -> _Header:
        tensors = self._torch[file] = read_torch_legacy(file) if is_legacy(file) else read_torch_zip(file)
        for name, dtype in tensors.dtypes.items():
            if dtype.name.startswith("float8"):
                raise _unsupported(file, name, dtype.name)
        return {name: (shape, tensors.dtypes[name]) for name, shape in tensors.shapes.items()}

    def file_of(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self._file_of[name]

    def __getitem__(self, name: str) -> np.ndarray:
        if (file := self._file_of[name]) in self._torch:
            return self._torch[file][name]
        # Opened for each tensor: an open file stays mapped, and counts the pages that were read as used memory.
        with _open(file) as tensors:
            return tensors.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def _safetensors_header(file: Path) -> _Header:
    header = {}
    with _open(file) as tensors:
        for name in tensors.keys():  # noqa: SIM118 -- a safetensors handle is not a mapping
            entry = tensors.get_slice(name)  # reads the header only
            if (found := entry.get_dtype()) not in TYPES:
                raise _unsupported(file, name, found)
            header[name] = tuple(entry.get_shape()), TYPES[found]
    return header


def _unsupported(file: Path, name: str, found: str) -> WeightFileError:
    # Not cast: most such files have scales beside the weights, without which all are wrong.
    return WeightFileError(
        f"{file}: tensor {name} has type {found}: expected {', '.join(WEIGHT_TYPES)}, as quantised weights are not "
        "supported."
    )


def _open(file: Path):
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise WeightFileError(f"cannot read {file}: {impostor(file) or f'{error}. {AGAIN}'}") from error


def choose_entry_file(names: Iterable[str]) -> str | None:
    """The file to start from among the file names of one component: a weight file or the index of its shards."""
    return next((name for _, name in _entry_files(names)), None)


def _entry_files(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(kind, name) of the weight files and indexes among the names, in the order of preference.

    Files of one kind, such as `.fp16.safetensors`, are in the same form and precision.
    """
    names = set(names)
    for form, variant in product((_SAFE, *_TORCH), VARIANTS):
        for stem in STEMS if form == _SAFE else _TORCH_STEMS:
            single = f"{stem}{variant}{form}"
            # diffusers puts the variant before ".json" of an index, transformers before ".safetensors".
            for name in (single, f"{stem}{form}.index{variant}.json", f"{single}.index.json"):
                if name in names:
                    yield variant + form, name
                    names.remove(name)  # without a variant, the two names of an index are one


def shard_pattern(index: str) -> str:
    """The pattern of the names of the shards of an index, which follow from its own name."""
    form = next(form for form in (_SAFE, *_TORCH) if f"{form}.index" in index)
    stem = next(stem for stem in _TORCH_STEMS if index.startswith(f"{stem}."))
    variant = next((variant for variant in VARIANTS if variant and variant in index), "")
    return f"{stem}{variant}-*-of-*{form}"


def read_weights(directory: Path) -> TensorFiles:
    """The tensors of a component directory.

    Raises:
      UnsafePickle: a file of PyTorch with anything else than tensors.
      WeightFileError: no weight file, a shard that is missing, or a damaged file.
    """
    entries = list(_entry_files(p.name for p in directory.iterdir()))
    if not entries:
        raise WeightFileError(_no_weights(directory))
    kind, entry = entries[0]
    if others := [name for other, name in entries[1:] if other == kind]:
        # Libraries that save shards leave a single file of before, and the other way round.
        logging.warning("%s holds the weights of two saves: %s is read, not %s", directory, entry, ", ".join(others))
    return _read_shards(directory / entry) if entry.endswith(".json") else TensorFiles([directory / entry])


def _no_weights(directory: Path) -> str:
    expected = " or ".join(f"{stem}{_SAFE}" for stem in STEMS)
    unread = (*_OTHER_FORMATS, _SAFE, *_TORCH)
    others = sorted(p.name for p in directory.iterdir() if p.suffix in unread)
    found = f"; found {', '.join(others)}, which is not read under that name" if others else ""
    return f"no weights in {directory}: expected {expected}, pytorch_model.bin, model.pth or shards{found}."


def _read_shards(index: Path) -> TensorFiles:
    """The tensors of the shards that an index names."""
    weight_map = read_json(index, _Index).weight_map
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise WeightFileError(f"{index} names shards outside its folder: {', '.join(outside)}. {AGAIN}")
    # Copied by hand, a large model often lacks a shard. All that are missing come in one error.
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise WeightFileError(f"{index} names shards that are not there: {', '.join(missing)}. Copy them too.")
    tensors = TensorFiles(index.parent / name for name in names)
    if missing := [f"{name} ({shard})" for name, shard in weight_map.items() if name not in tensors]:
        raise WeightFileError(f"{index} names {len(missing)} tensors that its shards lack: {missing[0]}. {AGAIN}")
    return tensors


def write_weights(
    tensors: Mapping[str, np.ndarray | LazyTensor],
    directory: Path,
    stem: str,
    written: Callable[[int], None] = lambda size: None,
) -> None:
    """Write `<stem>.safetensors`, or above 5 GB shards and their index, tensor by tensor.

    Args:
      written: as of `write_safetensors`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors)
    if len(shards) == 1:
        return write_safetensors(directory / f"{stem}{_SAFE}", tensors, written)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}{_SAFE}"
        write_safetensors(directory / file, shard, written)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return write_json(index, directory / f"{stem}{_SAFE}.index.json")


def _shards(tensors: Mapping[str, np.ndarray | LazyTensor]) -> list[dict[str, np.ndarray | LazyTensor]]:
    """The tensors in their order, in parts of at most `_LARGEST_SHARD` where no single tensor is larger."""
    shards, size = [{}], 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > _LARGEST_SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def read_json(file: Path, type_: Any = dict[str, Any]) -> Any:
    """The value in a JSON file of a model directory, by default an object.

    WeightFileError names a file that is missing or damaged, and the field whose value is not of `type_`.
    """
    try:
        return json_files.read_json(file, type_)
    except FileNotFoundError as error:
        raise WeightFileError(f"{file} is not there: the model directory is not complete. Copy it too.") from error
    except (BadRecords, OSError) as error:
        raise WeightFileError(f"{error}. {impostor(file) or AGAIN}") from error


def write_json(value: Mapping | Sequence, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n")
