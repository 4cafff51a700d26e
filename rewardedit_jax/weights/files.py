"""Weight files of a component directory: choosing them, reading them tensor by tensor, and writing them.

Files have the names that diffusers and transformers write: `diffusion_pytorch_model.safetensors` or
`model.safetensors`, in one file or in shards with an `…index.json`, in full precision or as an fp16/bf16 variant.
Pickles (`.bin`, `.pth`) are refused.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rewardedit_jax.data import json_files
from rewardedit_jax.data.records import BadRecords

STEMS = ("diffusion_pytorch_model", "model")
VARIANTS = ("", ".fp16", ".bf16")  # in order of preference


class WeightFileError(ValueError):
    """Weight files that are missing, damaged or pickles, or a config.json that is not supported."""


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of safetensors files, each read when it is accessed. `shapes`: tensor name → shape."""

    def __init__(self, files: Iterable[Path]):
        self._file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            with _open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 -- a safetensors handle is not a mapping
                    self._file_of[name] = file
                    # A slice reads the header only.
                    self.shapes[name] = tuple(tensors.get_slice(name).get_shape())

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
        raise WeightFileError(f"cannot read {file}: {error}. Copy or download it again.") from error


def choose_entry_file(names: Iterable[str]) -> str | None:
    """The file to start from among the file names of one component: a weight file or the index of its shards."""
    names = set(names)
    for variant, stem in product(VARIANTS, STEMS):
        single = f"{stem}{variant}.safetensors"
        # diffusers puts the variant before ".json" of an index, transformers before ".safetensors".
        for name in (single, f"{stem}.safetensors.index{variant}.json", f"{single}.index.json"):
            if name in names:
                return name
    return None


def read_weights(directory: Path) -> TensorFiles:
    """The tensors of a component directory.

    Raises:
      WeightFileError: no weight file, a pickle only, a shard that is missing, or a damaged file.
    """
    entry = choose_entry_file(p.name for p in directory.iterdir())
    if entry is None:
        files = " or ".join(f"{stem}.safetensors" for stem in STEMS)
        missing = f"no weights in {directory}: expected {files} (or their shards)."
        raise WeightFileError(refused_pickle(directory) or missing)
    return TensorFiles(_shards(directory / entry) if entry.endswith(".json") else [directory / entry])


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise WeightFileError(f"{index} has no weight_map, which says in which shard a tensor is. Copy it again.")
    shards = [index.parent / name for name in sorted(set(weight_map.values()))]
    # Copied by hand, a large model often lacks a shard. All that are missing come in one error.
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise WeightFileError(f"{index} names shards that are not there: {', '.join(missing)}. Copy them too.")
    return shards


def refused_pickle(directory: Path) -> str | None:
    """The error message about the pickles in a directory; None if there are none."""
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pth"))
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


def read_json(file: Path) -> dict:
    """The object in a JSON file of a model directory. WeightFileError names a file that is missing or damaged."""
    try:
        return json_files.read_json(file, dict[str, Any])
    except FileNotFoundError as error:
        raise WeightFileError(f"{file} is not there: the model directory is not complete. Copy it too.") from error
    except BadRecords as error:
        raise WeightFileError(f"{error}. Copy or download the file again.") from error


def write_json(value: Mapping | Sequence, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n")
