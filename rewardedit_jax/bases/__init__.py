"""Base editors, one module each. The classes listed here have the protocol `base.Base`."""

from pathlib import Path

from jax.typing import DTypeLike

from rewardedit_jax.bases.base import Start
from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.bases.smartedit import SmartEdit
from rewardedit_jax.weights.files import read_json
from rewardedit_jax.weights.hub import find_model

# The first one also reads pipelines of unknown classes: most editors keep the layout of Stable Diffusion.
BASES: list[type] = [InstructPix2Pix, SmartEdit]


def base_named(name: str) -> type:
    """The base editor that a recipe names. Raises ValueError for an unknown name."""
    for base in BASES:
        if base.name == name:
            return base
    raise ValueError(f"base_editor={name!r}: expected one of {', '.join(base.name for base in BASES)}")


def find_pipeline(model: str | Path) -> Path:
    """The local directory of a pipeline: a directory, a training workdir, a shipped model's name or a hub id."""
    # Folders that a pipeline does not have are not asked for: one list serves all bases.
    return find_model(model, tuple(dict.fromkeys(name for base in BASES for name in base.components)))


def open_pipeline(directory: Path, dtype: DTypeLike, allow_nonfinite: bool = False) -> Start:
    """The base editor in a pipeline directory, by the class that its model_index.json names; reads no weights."""
    pipeline = read_json(directory / "model_index.json").get("_class_name")
    matching = [base for base in BASES if pipeline in base.pipelines]
    return (matching or BASES)[0].open(directory, dtype, allow_nonfinite)
