"""Weight files of a component directory: which to read, reading them tensor by tensor, writing them.

Names as diffusers and transformers write them: `diffusion_pytorch_model.safetensors` or `model.safetensors`, in one
file or in shards with an `…index.json`, in full precision or as an fp16/bf16 variant. Pickles (`.bin`, `.pth`) are
refused.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

STEMS = ("diffusion_pytorch_model", "model")
VARIANTS = ("", ".fp16", ".bf16")  # in order of preference


class WeightFileError(ValueError):
    """Weight files that are missing, unreadable or of a kind that is not read; the message says what to do."""


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of some safetensors files, each read when it is asked for."""

    def __init__(self, files: Iterable[Path]):
        self._file_of: dict[str, Path] = {}
        self._shape_of: dict[str, tuple[int, ...]] = {}
        for file in files:
            with _open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 -- a safetensors handle is no mapping
                    self._file_of[name] = file
                    self._shape_of[name] = tuple(tensors.get_slice(name).get_shape())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name → shape, from the headers alone."""
        return dict(self._shape_of)

    def __getitem__(self, name: str) -> np.ndarray:
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
    for variant in VARIANTS:
        for stem in STEMS:
            single = f"{stem}{variant}.safetensors"
            # diffusers puts the variant before ".json" of an index, transformers before ".safetensors".
            indices = (f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors.index.json")
            for candidate in (single, *indices):
                if candidate in names:
                    return candidate
    return None


def read_weights(directory: Path) -> TensorFiles:
    """The tensors of a component directory.

    Raises:
      WeightFileError: no weight file, a pickle only, a shard that is missing, or a damaged file.
    """
    entry = choose_entry_file(p.name for p in directory.iterdir())
    if entry is None:
        raise WeightFileError(_no_weights(directory))
    if entry.endswith(".safetensors"):
        return TensorFiles([directory / entry])
    return TensorFiles(_shards(directory / entry))


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise WeightFileError(f"{index} has no weight_map, which says in which shard a tensor is. Copy it again.")
    shards = sorted(set(weight_map.values()))
    if missing := [shard for shard in shards if not (index.parent / shard).is_file()]:
        raise WeightFileError(f"{index} names shards that are not there: {', '.join(missing)}. Copy them too.")
    return [index.parent / shard for shard in shards]


def _no_weights(directory: Path) -> str:
    return refused_pickle(directory) or (
        f"no weights in {directory}: expected {STEMS[0]}.safetensors or {STEMS[1]}.safetensors (or their shards)."
    )


def refused_pickle(directory: Path) -> str | None:
    """What there is to say about the pickles of a directory; None if it has none."""
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pth"))
    if not pickles:
        return None
    # A training leaves other pickles beside its model: arguments, states of random generators.
    first = next((name for name in pickles if "model" in name), pickles[0])
    whole, *parts = (re.sub(r"-\d+-of-\d+", "", name) for name in (first, *pickles))
    parts = [name for name, unnumbered in zip(pickles, parts, strict=True) if unnumbered == whole]
    stem = STEMS[0] if first.startswith(STEMS[0]) else STEMS[1]
    # Cloned, because tensors that share memory cannot be written. What EditReward trains may be under the key `model`.
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
    mode = file.stat().st_mode
    save_file(dict(tensors), file, metadata={"format": "pt"})
    file.chmod(mode)  # safetensors puts another file there, which its writer alone may read


def read_json(file: Path) -> dict:
    """The object in a JSON file, or an error that names the file."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise WeightFileError(f"{file} is not there: the model directory is not complete. Copy it too.") from error
    except ValueError as error:  # no JSON, or not even text
        raise WeightFileError(f"{file} is not valid JSON: {error}. Copy or download it again.") from error
    if not isinstance(value, dict):
        raise WeightFileError(f"{file} holds a {type(value).__name__}; expected an object.")
    return value


def write_json(value: Mapping | Sequence, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n")
