"""LoRA of a model directory → a file in the names of peft and diffusers, or of kohya.

The forms are described in `adapter_files`. Networks of a pipeline go into one file.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.weights.adapter_conversion import Network, find_networks
from rewardedit_jax.weights.adapter_files import DIFFUSERS_METADATA, KOHYA, PEFT
from rewardedit_jax.weights.conversion import Written, peak_memory
from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.files import write_json
from rewardedit_jax.weights.streaming import LazyTensor, write_safetensors

Tensors = dict[str, np.ndarray | LazyTensor]


class _File(NamedTuple):
    """What is written: tensors, texts of the header, and the content of adapter_config.json beside it."""

    tensors: Tensors
    metadata: dict[str, str]
    config: dict[str, Any] | None = None


def export_lora(model: str, form: Literal["peft", "kohya"], out: Path) -> Written:
    """Write the low-rank differences of a model as one safetensors file.

    Args:
      model: as of `convert_lora`.
      form: "peft" is what diffusers' `load_lora_weights` reads, or peft for a network that is no pipeline; "kohya" is
        for U-Net and text encoder alone.
      out: the file; one that is there is replaced.
    Raises:
      ModelNotFound, WeightFileError: no such model, or one without LoRA, or with networks that the form has no name
        for. Then nothing has been written.
    """
    networks = {name: network for name, network in find_networks(model).items() if network.lora}
    if not networks:
        raise WeightFileError(f"{model} has no network with LoRA in its config.json.")
    file = _FORMS[form](networks)
    if file.config is not None:
        write_json(file.config, out.parent / "adapter_config.json")
    with atomic_write(out) as unfinished:
        write_safetensors(unfinished, file.tensors, metadata=file.metadata)
    return Written(len(file.tensors), sum(tensor.nbytes for tensor in file.tensors.values()), peak_memory())


def _peft(networks: Mapping[str, Network]) -> _File:
    tensors, settings = {}, {}
    for name, network in networks.items():
        prefix = f"{name}." if name else PEFT
        for module, d in network.differences.items():
            tensors |= {f"{prefix}{module}.lora_A.weight": d.a, f"{prefix}{module}.lora_B.weight": d.b}
        settings[name] = _peft_settings(network)
    if "" in networks:
        return _File(tensors, {}, {"peft_type": "LORA", "base_model_name_or_path": None, **settings[""]})
    header = {f"{name}.{key}": value for name, found in settings.items() for key, value in found.items()}
    return _File(tensors, {DIFFUSERS_METADATA: json.dumps(header, sort_keys=True)})


def _peft_settings(network: Network) -> dict[str, Any]:
    """Fields of peft's LoraConfig."""
    lora = network.lora
    return {
        "r": lora["rank"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora.get("dropout", 0.0),
        "target_modules": sorted(network.differences),
    }


def _kohya(networks: Mapping[str, Network]) -> _File:
    if unnamed := [name or str(network.folder) for name, network in networks.items() if name not in KOHYA]:
        raise WeightFileError(
            f"kohya has no names for {', '.join(unnamed)}: expected LoRA of {', '.join(KOHYA)} alone."
        )
    tensors: Tensors = {}
    for name, network in networks.items():
        for module, d in network.differences.items():
            key = f"{KOHYA[name]}_{module.replace('.', '_')}"
            tensors |= {f"{key}.lora_down.weight": d.a, f"{key}.lora_up.weight": d.b}
            tensors[f"{key}.alpha"] = np.asarray(d.scale * d.rank, np.float32)
    return _File(tensors, {"ss_network_module": "networks.lora"})


_FORMS: dict[str, Callable[[Mapping[str, Network]], _File]] = {"peft": _peft, "kohya": _kohya}
