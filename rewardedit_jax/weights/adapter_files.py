"""Files of low-rank differences (LoRA) of other software: names, alpha, and which layers of a model they belong to.

Two forms are read, in safetensors or as torch saves them. T is a module of torch:

  peft, diffusers   unet.T.lora_A.weight, unet.T.lora_B.weight; alpha in the header, or in adapter_config.json beside
  kohya             lora_unet_T.lora_down.weight, .lora_up.weight, .alpha, with "_" in place of the dots in T

Without alpha, the scale is 1. Only dense layers have differences here: the attention and feed-forward of a transformer,
and the projections around it, which some files keep as 1×1 convolutions. Others are refused, not left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from safetensors import safe_open

from rewardedit_jax.params import Params
from rewardedit_jax.weights.conversion import lazy_tensors
from rewardedit_jax.weights.engine import WeightMismatch, WeightTable, raise_faults
from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.files import TensorFiles, read_json
from rewardedit_jax.weights.low_rank import Difference
from rewardedit_jax.weights.streaming import LazyTensor

_FORMS = {
    "a": (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight", ".lora.down.weight"),
    "b": (".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight", ".lora.up.weight"),
    "alpha": (".alpha",),
}
DIFFUSERS_METADATA = "lora_adapter_metadata"  # key of the header that has peft's settings as JSON
# Components of a pipeline in the names of kohya's files.
KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te"}
PEFT = "base_model.model."  # before the names of a network that is no part of a pipeline


class Layer(NamedTuple):
    """A dense layer of a model."""

    component: str  # folder of the pipeline; "" for a network that is none of a pipeline
    path: str  # of its parameters in the network
    module: str  # of torch, in the files of this project
    shape: tuple[int, int]  # of its kernel: in, out


class _Settings(msgspec.Struct):
    """What matters here of peft's settings."""

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False


def dense_layers(component: str, table: WeightTable, abstract: Params) -> dict[str, Layer]:
    """The layers of a network that can have a difference, by all names that files give them."""
    layers = {}
    for path, leaf in abstract.items():
        if path.endswith("/kernel"):
            module = path.removesuffix("/kernel")
            names = [name for rule in table.rules for name in rule.all_torch(f"{module}/lora_a")]
            names = [name.removesuffix(".lora_A.default.weight") for name in names]
            layers |= {key: Layer(component, module, names[0], leaf.shape) for key in _keys(component, names)}
    return layers


def _keys(component: str, names: list[str]) -> list[str]:
    """What files call a layer that torch has under these names."""
    if not component:
        return [prefix + name for name in names for prefix in ("", PEFT)]
    kohya = [f"{KOHYA[component]}_{name.replace('.', '_')}" for name in names] if component in KOHYA else []
    return [*(f"{component}.{name}" for name in names), *kohya]


def read_adapter(file: Path, layers: Mapping[str, Layer]) -> dict[Layer, Difference]:
    """The differences in a file.

    Args:
      layers: of the model, as of `dense_layers`.
    Raises:
      WeightFileError: a missing or damaged file, or a kind of adapter that is not supported.
      WeightMismatch: the file does not belong to the model; lists names and shapes.
    """
    if not file.is_file():
        raise WeightFileError(f"there is no file {file}.")
    files, settings = TensorFiles([file]), _settings(file)
    tensors, faults, found = lazy_tensors(files), [], {}
    for key, parts in _by_layer(tensors, faults).items():
        if lacking := [f"lora_{x.upper()}" for x in "ab" if x not in parts]:
            faults.append(f"{key}: the file has no {' and no '.join(lacking)} of it")
        elif key not in layers:
            shapes = " and ".join(str(list(parts[x].shape)) for x in "ab")
            faults.append(f"{key}: the model has no dense layer of that name; the file has {shapes}")
        elif layers[key] in found:
            faults.append(f"{key}: the file has this layer under another name too")
        else:
            found[layers[key]] = _difference(key, parts, layers[key], settings, faults)
    try:
        raise_faults(faults, most=10)
    except WeightMismatch as error:
        advice = "It belongs to another network, or has layers that are not dense."
        raise WeightMismatch(f"{file}: {error}\n{advice}") from error
    if not found:
        raise WeightFileError(f"{file} has no tensors.")
    return found


def _by_layer(tensors: Mapping[str, LazyTensor], faults: list[str]) -> dict[str, dict[str, LazyTensor]]:
    """Name of a layer → its tensors a, b and alpha; other tensors add a fault."""
    layers: dict[str, dict[str, LazyTensor]] = {}
    endings = {ending: part for part, endings in _FORMS.items() for ending in endings}
    for name, tensor in tensors.items():
        if ending := next(filter(name.endswith, endings), None):
            layers.setdefault(name.removesuffix(ending), {})[endings[ending]] = tensor
        else:
            faults.append(
                f"tensor {name} of shape {list(tensor.shape)} is not of LoRA: expected names that end in "
                "lora_A.weight, lora_B.weight, lora_down.weight, lora_up.weight or alpha"
            )
    return layers


def _difference(
    key: str, parts: Mapping[str, LazyTensor], layer: Layer, settings: Mapping[str, _Settings], faults: list[str]
) -> Difference | None:
    a, b = parts["a"], parts["b"]
    rank, (inputs, outputs) = (*a.shape, 0)[0], layer.shape
    flat = [x.shape[:2] for x in (a, b) if x.shape[2:] in ((), (1, 1))]
    if rank < 1 or flat != [(rank, inputs), (outputs, rank)]:
        shapes = " and ".join(str(list(x.shape)) for x in (a, b))
        faults.append(f"{key}: has {shapes}: expected [rank, {inputs}] and [{outputs}, rank]")
        return None
    own = settings.get(layer.component, _Settings())
    stored = parts["alpha"].make().reshape(-1).tolist() if "alpha" in parts else [_alpha(own, layer.module)]
    alpha = stored[0] if stored else None
    if not alpha:  # 0 means the rank, as in kohya's loader
        return Difference(a, b, 1.0)
    return Difference(a, b, alpha / rank**0.5 if own.use_rslora else alpha / rank)


def _alpha(settings: _Settings, module: str) -> float | None:
    """peft's alpha of a module: patterns are regexes of the end of its name."""
    patterns = settings.alpha_pattern.items()
    return next((x for end, x in patterns if re.fullmatch(rf"(.*\.)?({end})", module)), settings.lora_alpha)


def _settings(file: Path) -> dict[str, _Settings]:
    """peft's settings of each component that the file or adapter_config.json beside it describes."""
    beside = file.parent / "adapter_config.json"
    try:
        described = _header_settings(file)
        if not described and file.name.startswith("adapter_model") and beside.is_file():
            described = {"": read_json(beside)}
        settings = {component: msgspec.convert(found, _Settings) for component, found in described.items()}
        for pattern in (pattern for found in settings.values() for pattern in found.alpha_pattern):
            re.compile(pattern)
    except (msgspec.DecodeError, re.error) as error:
        raise WeightFileError(f"{file}: settings of LoRA: {error}.") from error
    if any(found.use_dora for found in settings.values()):
        raise WeightFileError(f"{file} is an adapter of DoRA, which is not supported: expected LoRA.")
    return settings


def _header_settings(file: Path) -> dict[str, dict[str, Any]]:
    """Component → its settings, in the header that diffusers writes."""
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, framework="numpy") as opened:
        text = (opened.metadata() or {}).get(DIFFUSERS_METADATA, "{}")
    described: dict[str, dict[str, Any]] = {}
    for name, value in msgspec.json.decode(text, type=dict[str, Any]).items():
        component, _, setting = name.partition(".")
        described.setdefault(component, {})[setting] = value
    return described
