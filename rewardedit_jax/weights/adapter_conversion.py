"""LoRA of a model directory: merged into its weights, kept beside them, or exported; from file to file.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021).
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.adapter_files import Layer, dense_layers, read_adapter
from rewardedit_jax.weights.conversion import Part, Written, lazy_tensors, network_part, write_parts
from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.files import read_json, read_weights
from rewardedit_jax.weights.hub import ModelNotFound, find_model
from rewardedit_jax.weights.kinds import NetworkKind, read_config
from rewardedit_jax.weights.low_rank import (
    Difference,
    add_differences,
    cast,
    join_differences,
    lora_settings,
    split_differences,
    target_patterns,
)
from rewardedit_jax.weights.pipeline_index import SMARTEDIT
from rewardedit_jax.weights.saving import MODEL_FILE, WEIGHT_FILE
from rewardedit_jax.weights.streaming import LazyTensor

_NETWORKS = tuple(name for name in SMARTEDIT if "tokenizer" not in name)  # of any pipeline of this project


class Network(NamedTuple):
    """A network of a model directory, its differences apart from its weights."""

    folder: Path
    kind: NetworkKind
    config: dict[str, Any]  # without "lora"
    tensors: dict[str, LazyTensor]
    lora: dict[str, Any] | None  # settings of the differences that it has
    differences: dict[str, Difference]  # by modules of torch


def convert_lora(model: str, file: Path | None, out: Path, keep: bool = False, dtype: Any = None) -> Written:
    """Write a model with the low-rank differences of a file, or with its own ones merged.

    Args:
      model: a model directory, a training workdir or a hub id; a pipeline or a single network.
      file: as of `adapter_files`; None: the differences that the model has.
      out: the directory; a model that is there is replaced when the new one is complete.
      keep: write the differences beside the weights, to train them further; else they are added to them.
      dtype: of the merged weights; None: each has the widest type of those that it is made from.
    Raises:
      ModelNotFound, WeightFileError, WeightMismatch: files that are missing, damaged or do not belong together. Then
        nothing has been written.
    """
    directory = _find(model)
    if out.expanduser().resolve() == directory.resolve():
        raise ValueError(f"--out {out}: expected another directory than --model.")
    networks = _open_networks(directory)
    parts = _merged_parts(networks, dtype) if file is None else _adapted_parts(networks, file, keep, dtype)
    return write_parts(parts, out, lambda new: _copy_rest(directory, parts, new))


def find_networks(model: str) -> dict[str, Network]:
    """The networks of a model by their folders; "" is the directory itself, of a single network."""
    return _open_networks(_find(model))


def _open_networks(directory: Path) -> dict[str, Network]:
    names = [""]
    if (index := directory / "model_index.json").is_file():
        names = [name for name in _NETWORKS if name in read_json(index)]
    return {name: _open(directory / name) for name in names}


def _find(model: str) -> Path:
    with suppress(ModelNotFound):
        return find_model(model, ("unet", "vae", "text_encoder"))
    return find_model(model, ())


def _open(folder: Path) -> Network:
    kind, config = read_config(folder)
    lora = config.pop("lora", None)
    # Checked, and under the names of today, whatever names the files have.
    tensors = network_part(folder, kind, {**config, "lora": lora}, lazy_tensors(read_weights(folder))).tensors
    plain, differences = split_differences(tensors, lora["alpha"] / lora["rank"] if lora else 1.0)
    return Network(folder, kind, config, plain, lora, differences)


def _merged_parts(networks: Mapping[str, Network], dtype: Any) -> dict[str, Part]:
    """The networks that have differences, with these added to their weights."""
    adapted = {name: network for name, network in networks.items() if network.lora}
    if not adapted:
        folders = ", ".join(str(network.folder) for network in networks.values())
        raise WeightFileError(f"no network has LoRA in its config.json: {folders}. Give --lora FILE.")
    return {name: _part(network, _merged(network, network.differences, dtype)) for name, network in adapted.items()}


def _adapted_parts(networks: Mapping[str, Network], file: Path, keep: bool, dtype: Any) -> dict[str, Part]:
    """The networks that the file has differences for, with these."""
    parts, layers = {}, {name: _layers(name, network) for name, network in networks.items()}
    found = read_adapter(file.expanduser(), {key: layer for named in layers.values() for key, layer in named.items()})
    for name in {layer.component for layer in found}:
        network, chosen = networks[name], {layer: d for layer, d in found.items() if layer.component == name}
        if network.lora:
            raise WeightFileError(f"{network.folder} has LoRA already: merge it first, without --lora.")
        differences = {layer.module: d for layer, d in chosen.items()}
        if not keep:
            parts[name] = _part(network, _merged(network, differences, dtype))
            continue
        tensors, scaling = join_differences(network.tensors, differences)
        targets = target_patterns({x.path for x in chosen}, {x.path for x in layers[name].values()})
        parts[name] = _part(network, tensors, lora_settings(scaling, targets))
    return parts


def _layers(name: str, network: Network) -> dict[str, Layer]:
    shapes = {key: tensor.shape for key, tensor in network.tensors.items()}
    module = network.kind.make(network.config, shapes)
    return dense_layers(name, network.kind.table(module.config), flatten_dict(abstract_params(module), sep="/"))


def _merged(network: Network, differences: Mapping[str, Difference], dtype: Any) -> dict[str, LazyTensor]:
    tensors = add_differences(network.tensors, differences)
    if dtype is not None:
        tensors |= {name: cast(tensors[name], np.dtype(dtype)) for name in (f"{key}.weight" for key in differences)}
    return tensors


def _part(network: Network, tensors: Mapping[str, LazyTensor], lora: dict[str, Any] | None = None) -> Part:
    """The component directory, once more checked, with the config.json of before but for its LoRA."""
    config = network.config | ({"lora": lora} if lora else {})
    part = network_part(network.folder, network.kind, config, tensors)
    # As the file has it, with null: to transformers, null is a value.
    written = {name: value for name, value in read_json(network.folder / "config.json").items() if name != "lora"}
    return part._replace(config=written | ({"lora": lora} if lora else {}))


def _copy_rest(directory: Path, parts: Mapping[str, Part], new: Path) -> None:
    """The files of the model that are not of the networks that were written."""
    index = directory / "model_index.json"
    named = read_json(index) if index.is_file() else {}
    # Not every name in the file: one such as "../other" leads out of the directory.
    folders = [path.name for path in directory.iterdir() if path.is_dir() and path.name in named]
    for folder in ("", *folders):
        for file in _rest(directory / folder, folder in parts, whole=bool(folder)):
            (new / folder).mkdir(exist_ok=True)
            shutil.copyfile(file, new / folder / file.name)  # not its permissions: a source may be read-only


def _rest(folder: Path, written: bool, whole: bool) -> Iterator[Path]:
    for file in filter(Path.is_file, folder.iterdir()):
        own = written and (WEIGHT_FILE.fullmatch(file.name) or file.name == "config.json")
        # Beside a model, a user may have other files.
        if not own and (whole or MODEL_FILE.fullmatch(file.name)):
            yield file
