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

from rewardedit_jax.models.clip_vision import CLIPVisionConfig
from rewardedit_jax.weights.conversion import Part, Written, lazy_tensors, network_part, write_parts
from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.files import read_json, read_weights, write_json
from rewardedit_jax.weights.hub import ModelNotFound
from rewardedit_jax.weights.kinds import CLIP, CLIP_VISION, UNET, read_config
from rewardedit_jax.weights.smartedit_checks import EMBEDDINGS, HEAD, LLM_PREFIX, NOT_LLAVA_1_5, PROJECTOR
from rewardedit_jax.weights.smartedit_sources import (
    TOKENIZER,
    TOKENIZER_SETTINGS,
    WHERE,
    Sources,
    find_source,
    open_sources,
)
from rewardedit_jax.weights.streaming import LazyTensor

_STEM = "model"  # of transformers
_FROM_BASE = ("vae", "text_encoder")  # networks that SmartEdit leaves as they are
_COPIED = ("tokenizer", "scheduler")  # folders of the base without weights
_OF_THE_FILES = ("torch_dtype", "dtype", "transformers_version", "_name_or_path")  # not true of what is written
_INDEX = {
    "vision_encoder": ["transformers", "CLIPVisionModel"],
    "language_model": ["rewardedit_jax", "Llava"],
    "language_tokenizer": ["transformers", "LlamaTokenizer"],
    "qformer": ["rewardedit_jax", "QFormer"],
    "interaction": ["rewardedit_jax", "Interaction"],
}


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
        "qformer": Part(sources.qformer_config, _qformer_tensors(sources), _STEM),
        "interaction": Part(sources.interaction_config, lazy_tensors(sources.interaction), _STEM),
    }
    return write_parts(parts, out, lambda new: _write_beside(sources, pipeline, new))


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
    return network_part(sources.unet_file, UNET, config, lazy_tensors(sources.unet, "unet."))


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


def _qformer_tensors(sources: Sources) -> dict[str, LazyTensor]:
    tensors = lazy_tensors(sources.embeddings)
    # The positions of words, a buffer: the Q-Former reads queries only.
    return {n: x for n, x in tensors.items() if n.startswith("sd_") and not n.endswith("position_ids")}


def _language_part(sources: Sources, keep_lora: bool, dtype: Any) -> Part:
    own, llava = lazy_tensors(sources.language, LLM_PREFIX), lazy_tensors(sources.llava)
    embeddings = lazy_tensors(sources.embeddings)
    tensors = {EMBEDDINGS: _joined_rows(llava[EMBEDDINGS], own.pop("embed_tokens.weight"), sources.words)}
    scale = sources.adapter.lora_alpha / sources.adapter.r
    for name, tensor in own.items():
        low_rank = [own.get(name.replace(".weight", f".lora_{side}.default.weight")) for side in "AB"]
        if name.endswith("inv_freq") or (".lora_" in name and not keep_lora):
            continue
        merged = all(low_rank) and not keep_lora
        tensors[f"model.{name}"] = _merged(tensor, *low_rank, scale) if merged else tensor
    tensors |= {f"model.{name}": embeddings[name] for name in PROJECTOR}
    tensors[HEAD] = _joined_rows(llava[HEAD], embeddings[HEAD], sources.words)
    if dtype is not None:
        tensors = {name: _cast(tensor, np.dtype(dtype)) for name, tensor in tensors.items()}
    return Part(_language_config(sources, keep_lora), tensors, _STEM)


def _language_config(sources: Sources, keep_lora: bool) -> dict[str, Any]:
    """LLaVA's settings, with SmartEdit's vocabulary and its <unk> as padding."""
    config = read_json(sources.llava_folder / "config.json")
    config = {name: value for name, value in config.items() if name not in _OF_THE_FILES}
    config |= {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "pad_token_id": 0}
    config["vocab_size"] = sources.words + len(sources.added_tokens)
    adapter = sources.adapter
    lora = {"rank": adapter.r, "alpha": adapter.lora_alpha, "dropout": adapter.lora_dropout}
    # peft's are the last parts of module names, ours whole paths of modules.
    lora["targets"] = [rf".*/{re.escape(name)}" for name in adapter.target_modules]
    return config | ({"lora": lora} if keep_lora else {})


def _joined_rows(first: LazyTensor, second: LazyTensor, count: int) -> LazyTensor:
    """`count` rows of `first`, and behind them those of `second`.

    The published training writes LLaVA's rows over SmartEdit's before every step, but not over the copy that its
    optimizer keeps and saves: in SmartEdit's files these rows have drifted.
    """
    dtype = _common_type(first, second)

    def make() -> np.ndarray:
        # No third matrix beside the two, which are the largest tensors of the model.
        rows = np.require(second.make(), dtype, "W")
        rows[:count] = first.make()[:count]
        return rows

    return LazyTensor(dtype, second.shape, make)


def _merged(weight: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float) -> LazyTensor:
    """weight + scale · b a, computed in float32 (Hu et al., "LoRA", 2021)."""
    dtype = _common_type(weight, a, b)

    def make() -> np.ndarray:
        w, low, high = (tensor.make().astype(np.float32) for tensor in (weight, a, b))
        return (w + np.float32(scale) * (high @ low)).astype(dtype)

    return LazyTensor(dtype, weight.shape, make)


def _common_type(*tensors: LazyTensor) -> np.dtype:
    types = {tensor.dtype for tensor in tensors}
    # NumPy knows no common type of float16 and bfloat16: neither holds the numbers of the other.
    return types.pop() if len(types) == 1 else np.dtype(np.float32)


def _cast(tensor: LazyTensor, dtype: np.dtype) -> LazyTensor:
    return LazyTensor(dtype, tensor.shape, lambda: tensor.make().astype(dtype))


def _write_beside(sources: Sources, base: Path, new: Path) -> None:
    """The files without weights: tokenizers, the noise schedule, and the index of the pipeline."""
    for folder in _COPIED:
        (new / folder).mkdir()
        for file in filter(Path.is_file, (base / folder).iterdir()):
            shutil.copyfile(file, new / folder / file.name)  # not its permissions: a source may be read-only
    words = new / "language_tokenizer"
    words.mkdir()
    shutil.copyfile(sources.llava_folder / TOKENIZER, words / TOKENIZER)
    for name in TOKENIZER_SETTINGS:
        if (sources.llava_folder / name).is_file():
            shutil.copyfile(sources.llava_folder / name, words / name)
    # In the order of their ids, and without LLaVA's <im_patch>.
    write_json({token: sources.words + i for i, token in enumerate(sources.added_tokens)}, words / "added_tokens.json")
    index = read_json(base / "model_index.json")
    kept = {name: index[name] for name in ("unet", *_FROM_BASE, *_COPIED)}
    write_json({"_class_name": "SmartEditPipeline", **kept, **_INDEX}, new / "model_index.json")
