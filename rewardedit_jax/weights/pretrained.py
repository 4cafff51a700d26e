"""One network ⇄ one component directory (config.json + weights), in the layout of diffusers and transformers."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.typing import DTypeLike

from rewardedit_jax.arguments import check_dtype, check_path
from rewardedit_jax.params import Params, abstract_params, with_types
from rewardedit_jax.weights import files
from rewardedit_jax.weights.engine import (
    UnusableTensor,
    WeightMismatch,
    WeightTable,
    export_tensors,
    import_tensors,
    match_tensors,
)
from rewardedit_jax.weights.files import TensorFiles, WeightFileError, read_weights
from rewardedit_jax.weights.kinds import KINDS, read_config
from rewardedit_jax.weights.saving import complete_save, replace_model


@dataclass(frozen=True, eq=False)
class PretrainedNetwork:
    """A network whose weight files were opened; only their headers have been read."""

    # Separate from reading, so that a training that resumes reads only the weights that its checkpoint lacks.
    module: nn.Module
    directory: Path
    tensors: TensorFiles
    table: WeightTable
    allow_nonfinite: bool = False
    types: Mapping[str, np.dtype] = field(default_factory=dict)  # of the paths that do not have `module.param_dtype`

    def stored_types(self) -> dict[str, np.dtype]:
        """Path → type of the tensor in the files. What does not fit is left out; `read` refuses it."""
        source = match_tensors(self.tensors, self.table, flatten_dict(self._abstract_params(), sep="/"), [])
        return {path: self.tensors.dtypes[name] for path, (name, _) in source.items()}

    def read(self, wanted: Callable[[str], bool] | None = None) -> Params:
        """The parameters, as NumPy arrays in a nested dict; `wanted` as of `import_tensors`.

        Raises:
          WeightMismatch: tensors do not fit the network, wanted or not.
          WeightFileError: a tensor has a type that is not supported, or values that are not finite.
        """
        abstract = with_types(self._abstract_params(), self.types)
        try:
            return import_tensors(self.tensors, self.table, abstract, wanted, self.allow_nonfinite)
        except WeightMismatch as error:
            raise WeightMismatch(f"{self.directory}: {error}") from error
        except UnusableTensor as error:
            raise WeightFileError(f"{self.tensors.file_of(error.tensor)}: {error}") from error

    def _abstract_params(self) -> Params:
        try:
            return abstract_params(self.module)
        except ValueError as error:  # such as a number of groups that does not divide the number of channels
            raise WeightFileError(f"{self.directory / 'config.json'}: {error}") from error


def open_pretrained(
    directory: str | Path,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    allow_nonfinite: bool = False,
) -> PretrainedNetwork:
    """Opens a diffusers or transformers component directory: finds its network, without reading the weights.

    Args:
      directory: a folder with config.json and weights, in safetensors or else as torch saves them (one file or shards,
        full precision or an fp16 variant).
      dtype: the type that the module computes in.
      param_dtype: the type that parameters are cast to.
      allow_nonfinite: whether weights may be NaN or infinite; else reading them is an error.
    Raises:
      WeightFileError: no such folder, missing, damaged or unsafe files, an unknown network or an unsupported setting.
    """
    directory = Path(directory).expanduser()
    complete_save(directory)
    kind, config = read_config(directory)
    tensors = read_weights(directory)
    try:
        module = kind.make(config, tensors.shapes, dtype=dtype, param_dtype=param_dtype)
    except ValueError as error:
        raise WeightFileError(f"{directory / 'config.json'}: {error}") from error
    return PretrainedNetwork(module, directory, tensors, kind.table(module.config), allow_nonfinite)


def load_pretrained(
    directory: str | Path,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    allow_nonfinite: bool = False,
) -> tuple[nn.Module, Params]:
    """A network and its parameters from a diffusers or transformers component directory.

    Args:
      directory, dtype, param_dtype, allow_nonfinite: as of `open_pretrained`.
    Returns:
      (module, params): `module.apply({"params": params}, ...)`; params is a nested dict of NumPy arrays.
    Raises:
      WeightFileError: as `open_pretrained`.
      WeightMismatch: tensors that do not fit the configuration.
      ValueError: an argument of another type; names it.
    """
    check_path("directory", directory)
    check_dtype("dtype", dtype)
    check_dtype("param_dtype", param_dtype)
    network = open_pretrained(directory, dtype, param_dtype, allow_nonfinite)
    return network.module, network.read()


def default_dtype() -> DTypeLike:
    """The type that models compute in by default: bfloat16 on accelerators, float32 on a CPU."""
    # On CPUs, XLA computes most bfloat16 operations in float32 and only adds conversions.
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def save_pretrained(module: nn.Module, params: Params, directory: str | Path) -> None:
    """Writes a network as a component directory, which diffusers or transformers load too.

    It replaces the model that the directory holds. Raises ValueError if parameters are not finite.
    """
    with replace_model(Path(directory)) as new:
        write_network(module, params, new)


def write_network(module: nn.Module, params: Params, directory: Path) -> None:
    """Writes the files of `save_pretrained` into an empty directory, such as one in a pipeline's."""
    kind = next(kind for kind in KINDS.values() if isinstance(module, kind.module))
    try:
        tensors = export_tensors(params, kind.table(module.config))
    except UnusableTensor as error:
        raise WeightFileError(f"{type(module).__name__} is not saved: {error}") from error
    files.write_weights(tensors, directory, kind.stem)
    kept = {} if module.lora is None else {"lora": asdict(module.lora)}
    files.write_json({**module.config.to_hf(), **kept}, directory / "config.json")
