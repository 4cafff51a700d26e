"""Weight files of a component directory: choosing them, reading them tensor by tensor, and writing them.

Files have the names that diffusers and transformers write: `diffusion_pytorch_model.safetensors` or
`model.safetensors`, in one file or in shards with an `…index.json`, in full precision or as an fp16/bf16 variant.
Pickles (`.bin`, `.pth`), quantised weights and other formats are refused.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from absl import logging
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rewardedit_jax.data import json_files
from rewardedit_jax.data.records import BadRecords

STEMS = ("diffusion_pytorch_model", "model")
VARIANTS = ("", ".fp16", ".bf16")  # in order of preference
_WEIGHT_TYPES = ("F64", "F32", "F16", "BF16")
_OTHER_TYPES = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64")  # NumPy has them too
_PICKLES = (".bin", ".pth", ".pt", ".ckpt")
_OTHER_FORMATS = (".gguf", ".ggml", ".onnx", ".msgpack", ".h5", ".npz")
# What is in place of a file after a download that went wrong: how its content begins → what it is, and what to do.
_IMPOSTORS = {
    (b"version https://git-lfs",): "it is a pointer of Git LFS: fetch the file itself with `git lfs pull`.",
    (b"<!doctype", b"<html", b"<?xml"): "it is a web page: download the file itself, from the address with /resolve/.",
}
_AGAIN = "Copy or download it again."


class WeightFileError(ValueError):
    """Weight files that are missing, damaged or pickles, or a config.json that is not supported."""


class _Index(msgspec.Struct):
    """The index of a model in shards."""

    weight_map: dict[str, str]  # tensor name → name of its shard, in the same folder


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of safetensors files, each read when it is accessed. `shapes`: tensor name → shape.

    A tensor that is in two files is a WeightFileError, and so is one of a type that NumPy lacks, such as float8.
    """

    def __init__(self, files: Iterable[Path]):
        self._file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            with _open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 -- a safetensors handle is not a mapping
                    if name in self._file_of:
                        raise WeightFileError(f"tensor {name} is in {self.file_of(name)} and in {file.name}. {_AGAIN}")
                    # A slice reads the header only.
                    header = tensors.get_slice(name)
                    if (found := header.get_dtype()) not in (*_WEIGHT_TYPES, *_OTHER_TYPES):
                        # Not cast: most such files have scales beside the weights, without which all are wrong.
                        raise WeightFileError(
                            f"{file}: tensor {name} has type {found}: expected {', '.join(_WEIGHT_TYPES)}, as "
                            "quantised weights are not supported."
                        )
                    self._file_of[name], self.shapes[name] = file, tuple(header.get_shape())

    def file_of(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self._file_of[name]

    def __getitem__(self, name: str) -> np.ndarray:
        # Opened for each tensor: an open file stays mapped, and counts the pages that were read as used memory.
        with _open(self._file_of[name]) as tensors:
            return tensors.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def _open(file: Path):
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise WeightFileError(f"cannot read {file}: {impostor(file) or f'{error}. {_AGAIN}'}") from error


def impostor(file: Path) -> str | None:
    """What is there in place of a file, with the remedy: the pointer of Git LFS or a web page; None: neither."""
    with suppress(OSError), file.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
        return next((what for begins, what in _IMPOSTORS.items() if start.startswith(begins)), None)
    return None


def choose_entry_file(names: Iterable[str]) -> str | None:
    """The file to start from among the file names of one component: a weight file or the index of its shards."""
    return next((name for _, name in _entry_files(names)), None)


def _entry_files(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(variant, name) of the weight files and indexes among the names, in the order of preference."""
    names = set(names)
    for variant, stem in product(VARIANTS, STEMS):
        single = f"{stem}{variant}.safetensors"
        # diffusers puts the variant before ".json" of an index, transformers before ".safetensors".
        for name in (single, f"{stem}.safetensors.index{variant}.json", f"{single}.index.json"):
            if name in names:
                yield variant, name
                names.remove(name)  # without a variant, the two names of an index are one


def read_weights(directory: Path) -> TensorFiles:
    """The tensors of a component directory.

    Raises:
      WeightFileError: no weight file, a pickle only, a shard that is missing, or a damaged file.
    """
    entries = list(_entry_files(p.name for p in directory.iterdir()))
    if not entries:
        raise WeightFileError(refused_pickle(directory) or _no_weights(directory))
    variant, entry = entries[0]
    if others := [name for other, name in entries[1:] if other == variant]:
        # Libraries that save shards leave a single file of before, and the other way round.
        logging.warning("%s holds the weights of two saves: %s is read, not %s", directory, entry, ", ".join(others))
    return _read_shards(directory / entry) if entry.endswith(".json") else TensorFiles([directory / entry])


def _no_weights(directory: Path) -> str:
    expected = " or ".join(f"{stem}.safetensors" for stem in STEMS)
    others = sorted(p.name for p in directory.iterdir() if p.suffix in (*_OTHER_FORMATS, ".safetensors"))
    found = f"; found {', '.join(others)}, which is not read" if others else ""
    return f"no weights in {directory}: expected {expected} (or their shards){found}."


def _read_shards(index: Path) -> TensorFiles:
    """The tensors of the shards that an index names."""
    weight_map = read_json(index, _Index).weight_map
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise WeightFileError(f"{index} names shards outside its folder: {', '.join(outside)}. {_AGAIN}")
    # Copied by hand, a large model often lacks a shard. All that are missing come in one error.
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise WeightFileError(f"{index} names shards that are not there: {', '.join(missing)}. Copy them too.")
    tensors = TensorFiles(index.parent / name for name in names)
    if missing := [f"{name} ({shard})" for name, shard in weight_map.items() if name not in tensors]:
        raise WeightFileError(f"{index} names {len(missing)} tensors that its shards lack: {missing[0]}. {_AGAIN}")
    return tensors


def refused_pickle(directory: Path) -> str | None:
    """The error message about the pickles in a directory; None if there are none."""
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in _PICKLES)
    if not pickles:
        return None
    # Training writes other pickles beside its model: arguments, states of random generators.
    first = next((name for name in pickles if "model" in name), pickles[0])
    whole, *parts = (re.sub(r"-\d+-of-\d+", "", name) for name in (first, *pickles))
    parts = [name for name, unnumbered in zip(pickles, parts, strict=True) if unnumbered == whole]  # its shards
    stem = STEMS[0] if first.startswith(STEMS[0]) else STEMS[1]
    # Cloned, because tensors that share memory cannot be written. EditReward's training code writes its state dict
    # under the key "model".
    return (
        f"{directory / first} is a pickle, which may run code when it is read, so it is refused. Convert it where "
        f'torch is installed, in that folder: python -c "import torch, safetensors.torch as s; '
        f"s.save_file({{k: v.contiguous().clone() for f in {parts} for d in [torch.load(f, weights_only=True)] "
        f"for k, v in d.get('model', d).items()}}, '{stem}.safetensors')\""
    )


def write_weights(tensors: Mapping[str, np.ndarray], directory: Path, stem: str) -> None:
    """Write `<stem>.safetensors`, marked as torch tensors so that diffusers and transformers take it."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{stem}.safetensors"
    file.touch()
    mode = file.stat().st_mode  # as the user's umask has it
    save_file(dict(tensors), file, metadata={"format": "pt"})
    file.chmod(mode)  # safetensors replaces the file by one that only its owner may read


def read_json(file: Path, type_: Any = dict[str, Any]) -> Any:
    """The value in a JSON file of a model directory, by default an object.

    WeightFileError names a file that is missing or damaged, and the field whose value is not of `type_`.
    """
    try:
        return json_files.read_json(file, type_)
    except FileNotFoundError as error:
        raise WeightFileError(f"{file} is not there: the model directory is not complete. Copy it too.") from error
    except (BadRecords, OSError) as error:
        raise WeightFileError(f"{error}. {impostor(file) or _AGAIN}") from error


def write_json(value: Mapping | Sequence, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n")
