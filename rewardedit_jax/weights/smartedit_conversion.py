"""The published weights of SmartEdit → the pipeline directory that `Editor.load` reads, from file to file.

Huang et al., "SmartEdit: Exploring Complex Instruction-based Image Editing with Multimodal Large Language Models"
(2024). Torch names stay, apart from prefixes; what is joined here is what the published code joins at every load.
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from rewardedit_jax.models.clip_vision import CLIPVisionConfig
from rewardedit_jax.weights.conversion import Part, Written, lazy_tensors, network_part, write_parts
from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.files import read_json, read_weights, write_json
from rewardedit_jax.weights.hub import ModelNotFound
from rewardedit_jax.weights.kinds import CLIP, CLIP_VISION, INTERACTION, LLAVA, QFORMER, UNET, read_config
from rewardedit_jax.weights.low_rank import add_differences, cast, common_type, split_differences
from rewardedit_jax.weights.pipeline_index import SMARTEDIT, SMARTEDIT_PIPELINE, model_index
from rewardedit_jax.weights.smartedit_checks import (
    AGAIN,
    EMBEDDINGS,
    HEAD,
    LLM_PREFIX,
    NOT_LLAVA_1_5,
    PROJECTOR,
    check_same_llava,
)
from rewardedit_jax.weights.smartedit_sources import WHERE, Sources, find_source, open_sources
from rewardedit_jax.weights.streaming import LazyTensor

_FROM_BASE = ("vae", "text_encoder")  # networks that SmartEdit leaves as they are
_COPIED = ("tokenizer", "scheduler")  # folders of the base without weights
_OF_THE_FILES = ("torch_dtype", "dtype", "transformers_version", "_name_or_path")  # not true of what is written


class _Scheduler(Struct, rename={"class_name": "_class_name"}):
    class_name: str


def convert_smartedit(
    smartedit: str, llava: str, vision: str, base: str, out: Path, keep_lora: bool = False, dtype: Any = None
) -> Written:
    """Write the pipeline directory of a SmartEdit editor.

    Args:
      smartedit, llava, vision, base: directories or hub ids, as `launch/convert.py smartedit --help` says.
      out: the directory; a model that is there is replaced when the new one is complete.
      keep_lora: keep the low-rank matrices of the language model beside its weights; else they are added to them.
      dtype: type of all tensors of the language model; None: each has the widest type of those that it is made from,
        so that nothing is rounded.
    Raises:
      ModelNotFound, WeightFileError, WeightMismatch: files that are missing, damaged or do not belong together. Then
        nothing has been written.
    """
    sources = open_sources(smartedit, llava)
    tower, pipeline = find_source("vision", vision), _find_base(base)
    if out.expanduser().resolve() in [folder.resolve() for folder in (sources.llava_folder, tower, pipeline)]:
        raise ValueError(f"--out {out}: expected another directory than those that are read.")
    parts = {
        "unet": _unet_part(sources, pipeline),
        **{name: _base_part(pipeline / name) for name in _FROM_BASE},
        "vision_encoder": _vision_part(sources, tower),
        "language_model": _language_part(sources, keep_lora, dtype),
        "qformer": _qformer_part(sources),
        "interaction": network_part(
            sources.files["interaction"],
            INTERACTION,
            sources.interaction_config,
            lazy_tensors(sources.interaction),
            AGAIN,
        ),
    }
    scheduler = read_json(pipeline / "scheduler" / "scheduler_config.json", _Scheduler).class_name
    return write_parts(parts, out, lambda new: _write_beside(sources, pipeline, scheduler, new))


def _find_base(model: str) -> Path:
    """The directory of a Stable Diffusion pipeline."""
    # First without weights: of the U-Net, only the settings are used.
    find_source("base", model, ("unet", *_FROM_BASE), weights=False)
    folder = find_source("base", model, _FROM_BASE)
    index = read_json(folder / "model_index.json")
    for name in ("unet", *_FROM_BASE, *_COPIED):
        if name not in index or not (folder / name).is_dir():
            raise ModelNotFound(f"--base: {folder} lacks {name}/. Published: {WHERE['base']}.")
    return folder


def _unet_part(sources: Sources, base: Path) -> Part:
    """SmartEdit's U-Net with the settings of the base's, whose input it widens by the latents of the source image."""
    _, config = read_config(base / "unet")
    latents = read_json(base / "vae" / "config.json").get("latent_channels", 4)
    config |= {"in_channels": 2 * latents}
    return network_part(sources.files["unet"], UNET, config, lazy_tensors(sources.unet, "unet."), AGAIN)


def _base_part(folder: Path) -> Part:
    kind, config = read_config(folder)
    return network_part(folder, kind, config, lazy_tensors(read_weights(folder)))


def _vision_part(sources: Sources, folder: Path) -> Part:
    """The image tower alone, without projection, from the files of a whole CLIP or of a tower."""
    kind, config = read_config(folder)
    if kind not in (CLIP, CLIP_VISION):
        raise WeightFileError(f"--vision: {folder} is no CLIP with an image tower. Published: {WHERE['vision']}.")
    tower = replace(CLIPVisionConfig.from_hf(config), projection_dim=None)
    if tower.image_size == 336:
        raise WeightFileError(f"--vision: {folder} has image_size=336. {NOT_LLAVA_1_5}")
    features = sources.interaction_config["hidden_size"]
    if tower.hidden_size != features:
        raise WeightFileError(
            f"--vision: {folder} has hidden_size={tower.hidden_size}: expected {features}, as SmartEdit's projector "
            f"reads. Published: {WHERE['vision']}."
        )
    return network_part(folder, CLIP_VISION, tower.to_hf(), lazy_tensors(read_weights(folder)))


def _qformer_part(sources: Sources) -> Part:
    tensors = {name: x for name, x in lazy_tensors(sources.embeddings).items() if name.startswith("sd_")}
    return network_part(sources.files["embeddings"], QFORMER, sources.qformer_config, tensors, AGAIN)


def _language_part(sources: Sources, keep_lora: bool, dtype: Any) -> Part:
    settings, tensors, stem = _published_language(sources)
    frozen = {f"{LLM_PREFIX}norm.weight": sources.language, **dict.fromkeys(PROJECTOR, sources.embeddings)}
    check_same_llava(sources.llava_folder, sources.llava, frozen)
    llava = lazy_tensors(sources.llava)
    tensors |= {name: _joined_rows(llava[name], tensors[name], sources.words) for name in (EMBEDDINGS, HEAD)}
    if not keep_lora:
        tensors = add_differences(*split_differences(tensors, settings["lora"]["alpha"] / settings["lora"]["rank"]))
        settings = {name: value for name, value in settings.items() if name != "lora"}
    if dtype is not None:
        tensors = {name: cast(tensor, np.dtype(dtype)) for name, tensor in tensors.items()}
    return Part(settings, tensors, stem)


def _published_language(sources: Sources) -> Part:
    """The language model as SmartEdit has it, from two of its files and with the low-rank matrices apart."""
    beside = lazy_tensors(sources.embeddings, LLM_PREFIX)
    # Older files have the embeddings here too. The prefix is left out, as no other tensor of LLaMA belongs here.
    beside = {name: x for name, x in beside.items() if not name.startswith("sd_") and name != "embed_tokens.weight"}
    tensors = lazy_tensors(sources.language) | beside
    files = f"{sources.files['language']} and {sources.files['embeddings']}"
    return network_part(files, LLAVA, _language_config(sources), tensors, AGAIN)


def _language_config(sources: Sources) -> dict[str, Any]:
    """LLaVA's settings, with SmartEdit's vocabulary, its <unk> as padding, and its LoRA."""
    file = sources.llava_folder / "config.json"
    read_json(file, LLAVA.settings)  # raises for values of other types
    config = {name: value for name, value in read_json(file).items() if value is not None}
    config = {name: value for name, value in config.items() if name not in _OF_THE_FILES}
    config |= {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "pad_token_id": 0}
    config["vocab_size"] = sources.tokenizer.vocabulary_size
    adapter = sources.adapter
    # peft's are the last parts of module names, ours whole paths of modules.
    targets = [rf".*/{re.escape(name)}" for name in adapter.target_modules]
    lora = {"rank": adapter.r, "alpha": adapter.lora_alpha, "dropout": adapter.lora_dropout, "targets": targets}
    return config | {"lora": lora}


def _joined_rows(first: LazyTensor, second: LazyTensor, count: int) -> LazyTensor:
    """`count` rows of `first`, and behind them those of `second`.

    The published training writes LLaVA's rows over SmartEdit's before every step, but not over the copy that its
    optimizer keeps and saves: in SmartEdit's files these rows have drifted.
    """
    dtype = common_type(first, second)

    def make() -> np.ndarray:
        # No third matrix beside the two, which are the largest tensors of the model.
        rows = np.require(second.make(), dtype, "W")
        rows[:count] = first.make()[:count]
        return rows

    return LazyTensor(dtype, second.shape, make)


def _write_beside(sources: Sources, base: Path, scheduler: str, new: Path) -> None:
    """The files without weights: tokenizers, the noise schedule, and the index of the pipeline."""
    for folder in _COPIED:
        (new / folder).mkdir()
        for file in filter(Path.is_file, (base / folder).iterdir()):
            shutil.copyfile(file, new / folder / file.name)  # not its permissions: a source may be read-only
    sources.tokenizer.save(new / "language_tokenizer")
    write_json(model_index(SMARTEDIT_PIPELINE, SMARTEDIT, scheduler), new / "model_index.json")
