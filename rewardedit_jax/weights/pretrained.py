"""One network ⇄ one component directory (config.json + safetensors), in the layout of diffusers and transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rewardedit_jax.arguments import check_dtype, check_path
from rewardedit_jax.models.clip import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.models.vae import AutoencoderConfig, AutoencoderKL
from rewardedit_jax.params import Params, abstract_params
from rewardedit_jax.weights import files
from rewardedit_jax.weights.engine import WeightMismatch, WeightTable, export_tensors, import_tensors
from rewardedit_jax.weights.files import TensorFiles, WeightFileError, read_json, read_weights
from rewardedit_jax.weights.qwen2_5_vl import edit_reward_table
from rewardedit_jax.weights.stable_diffusion import text_table, unet_table, vae_table, vision_table


class NetworkKind(NamedTuple):
    """What is needed to read and write one kind of network."""

    config: type
    module: type[nn.Module]
    table: Callable[[Any], WeightTable]
    stem: str  # of its weight file
    # Published config.json files mention neither reward modules nor reward heads; their tensors' names and shapes do.
    infers_from_shapes: bool = False


_DIFFUSERS, _TRANSFORMERS = files.STEMS
UNET = NetworkKind(UNetConfig, UNet, unet_table, _DIFFUSERS, infers_from_shapes=True)
VAE = NetworkKind(AutoencoderConfig, AutoencoderKL, vae_table, _DIFFUSERS)
CLIP_TEXT = NetworkKind(CLIPTextConfig, CLIPTextModel, text_table, _TRANSFORMERS)
CLIP_VISION = NetworkKind(CLIPVisionConfig, CLIPVisionModel, vision_table, _TRANSFORMERS)
EDIT_REWARD = NetworkKind(EditRewardConfig, EditReward, edit_reward_table, _TRANSFORMERS, infers_from_shapes=True)

# The kind of network that a config.json describes: by diffusers' `_class_name`, else by transformers' `architectures`,
# else by `model_type`.
_KINDS = {
    "UNet2DConditionModel": UNET,
    "AutoencoderKL": VAE,
    "CLIPTextModel": CLIP_TEXT,
    "CLIPTextModelWithProjection": CLIP_TEXT,
    "CLIPVisionModelWithProjection": CLIP_VISION,
    "Qwen2_5_VLForConditionalGeneration": EDIT_REWARD,
    # `architectures` of reward models names classes that transformers does not have, or is missing.
    "qwen2_5_vl": EDIT_REWARD,
}


@dataclass(frozen=True, eq=False)
class PretrainedNetwork:
    """A network whose weight files were opened; only their headers have been read."""

    # Separate from reading, so that a training that resumes reads only the weights that its checkpoint lacks.
    module: nn.Module
    directory: Path
    tensors: TensorFiles
    table: WeightTable

    def read(self, wanted: Callable[[str], bool] | None = None) -> Params:
        """The parameters, as NumPy arrays in a nested dict; `wanted` as of `import_tensors`.

        Raises WeightMismatch if tensors do not fit the network, wanted or not.
        """
        try:
            return import_tensors(self.tensors, self.table, abstract_params(self.module), wanted)
        except WeightMismatch as error:
            raise WeightMismatch(f"{self.directory}: {error}") from error


def open_pretrained(
    directory: str | Path, dtype: DTypeLike = jnp.float32, param_dtype: DTypeLike = jnp.float32
) -> PretrainedNetwork:
    """Opens a diffusers or transformers component directory: finds its network, without reading the weights.

    Args:
      directory: a folder with config.json and safetensors (one file or shards, full precision or an fp16 variant).
      dtype: the type that the module computes in.
      param_dtype: the type that parameters are cast to.
    Raises:
      WeightFileError: no such folder, missing or damaged files, pickles, an unknown network or an unsupported setting.
    """
    directory = Path(directory).expanduser()
    config = _read_config(directory)
    kind = _kind_of(config, directory)
    tensors = read_weights(directory)
    try:
        network = kind.config.from_hf(config, *([tensors.shapes] if kind.infers_from_shapes else []))
    except ValueError as error:
        raise WeightFileError(f"{directory / 'config.json'}: {error}") from error
    module = kind.module(network, dtype=dtype, param_dtype=param_dtype)
    return PretrainedNetwork(module, directory, tensors, kind.table(network))


def load_pretrained(
    directory: str | Path, dtype: DTypeLike = jnp.float32, param_dtype: DTypeLike = jnp.float32
) -> tuple[nn.Module, Params]:
    """A network and its parameters from a diffusers or transformers component directory.

    Args:
      directory, dtype, param_dtype: as of `open_pretrained`.
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
    network = open_pretrained(directory, dtype, param_dtype)
    return network.module, network.read()


def default_dtype() -> DTypeLike:
    """The type that models compute in by default: bfloat16 on accelerators, float32 on a CPU."""
    # On CPUs, XLA computes most bfloat16 operations in float32 and only adds conversions.
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def save_pretrained(module: nn.Module, params: Params, directory: str | Path) -> None:
    """Writes a network as a component directory, which diffusers or transformers load too."""
    kind = next(kind for kind in _KINDS.values() if isinstance(module, kind.module))
    directory = Path(directory)
    files.write_weights(export_tensors(params, kind.table(module.config)), directory, kind.stem)
    files.write_json(module.config.to_hf(), directory / "config.json")


def _read_config(directory: Path) -> dict:
    if not directory.is_dir():
        raise WeightFileError(f"there is no directory {directory}.")
    if (directory / "model_index.json").is_file():
        parts = ", ".join(sorted(p.parent.name for p in directory.glob("*/config.json")))
        raise WeightFileError(
            f"{directory} is a whole pipeline: load it with Editor.load, or one of its networks: {parts}."
        )
    return read_json(directory / "config.json")


def _kind_of(config: dict, directory: Path) -> NetworkKind:
    names = [config.get("_class_name"), *(config.get("architectures") or []), config.get("model_type")]
    for name in names:
        if name in _KINDS:
            return _KINDS[name]
    name = next(filter(None, names), "nothing")
    raise WeightFileError(f"{directory / 'config.json'} describes {name}; known networks: {', '.join(_KINDS)}.")
