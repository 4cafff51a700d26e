"""The tiny SmartEdit of the reference: in the files of its publication, converted, and made without the conversion.

The reference lies outside the repository: published PyTorch code computed its numbers, and a script draws its weights.
"""

import json
import runpy
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from paths import SHARED_FIXTURES
from safetensors.numpy import save_file

from rewardedit_jax.weights.smartedit_conversion import convert_smartedit

FIXTURE = SHARED_FIXTURES / "smartedit_a"
needs_smartedit = pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"the reference of SmartEdit is absent: no {FIXTURE}")
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.05, "targets": [r".*/self_attn/[qv]_proj"]}
# Files without suffix, and folders, below the folder of all published models.
LLM = "SmartEdit/LLM-15000/adapter_model"
EMBEDDINGS = "SmartEdit/embeddings_qformer/checkpoint-15000_embeddings_qformer"
UNET, INTERACTION = "SmartEdit/unet-15000/adapter_model", "SmartEdit/modulate-15000/adapter_model"
VISION, BASE = "openai/clip-vit-large-patch14", "sd"
PREFIX = "model.base_model.model."  # of the language model's tensors


@cache
def description():
    """Settings of the reference: sizes, conversation, configurations, names and shapes of all tensors."""
    return json.loads((FIXTURE / "smartedit_a.json").read_text("utf-8"))


@cache
def _program():
    """What the program defines that writes the published files."""
    return runpy.run_path(str(FIXTURE / "make_smartedit_dir.py"))


@cache
def _weights():
    return _program()["Weights"](description()["components"])


def tensors(component):
    """Name → float32 values of a published file; buffers of integers are left out. Do not change the arrays."""
    return {name: x for name, x in _weights()(component).items() if x.dtype == np.float32}


def write_sources(out, **settings):
    """SmartEdit, LLaVA, CLIP and Stable Diffusion as they are published; skips the test if the reference is absent."""
    if not FIXTURE.is_dir():
        pytest.skip(f"the reference of SmartEdit is absent: no {FIXTURE}")
    _program()["write_smartedit_dir"](description(), FIXTURE, out, **settings)
    return out


def convert(sources, out, **settings):
    """Converts what `write_sources` wrote."""
    llava, vision, base = (str(sources / name) for name in ("LLaVA", VISION, BASE))
    return convert_smartedit(str(sources / "SmartEdit"), llava, vision, base, out, **settings)


def content(folder: Path):
    """Path → bytes of all files."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write_pipeline(out: Path, reward: bool = False, lora: str = "merged") -> Path:
    """Writes a pipeline directory, plain or reward-conditioned, without the conversion, and returns `out`.

    Args:
      lora: "merged" into the kernels, or "kept" as tensors of its own.
    """
    files = description()["json_files"]
    unet = {**files["sd/unet/config.json"], "in_channels": 8}
    vision = files["openai/clip-vit-large-patch14/config.json"]["vision_config"]
    _write(out / "unet", _unet(reward), unet, "diffusion_pytorch_model")
    _write(out / "vae", tensors("vae"), files["sd/vae/config.json"], "diffusion_pytorch_model")
    _write(out / "text_encoder", tensors("text_encoder"), files["sd/text_encoder/config.json"])
    _write(out / "vision_encoder", _starting("clip", "vision_model."), {**vision, "architectures": ["CLIPVisionModel"]})
    kept = {"lora": LORA} if lora == "kept" else {}
    llava = {**files["LLaVA/config.json"], "vocab_size": description()["sizes"]["llm_vocab_after"], **kept}
    _write(out / "language_model", language_model(lora), llava)
    _write(out / "qformer", _starting("embeddings_qformer", "sd_"), qformer_config())
    _write(out / "interaction", tensors("modulate"), interaction_config())
    _write_json(out / "scheduler" / "scheduler_config.json", files["sd/scheduler/scheduler_config.json"])
    _write_tokenizers(out)
    _write_json(out / "model_index.json", {"_class_name": "SmartEditPipeline"})
    return out


def _unet(reward):
    if reward:
        return tensors("reward_unet")
    return {name.removeprefix("unet."): x for name, x in tensors("unet").items()}


def _starting(component, prefix):
    return {name: x for name, x in tensors(component).items() if name.startswith(prefix)}


def language_model(lora):
    """Tensors of the pipeline's language model: rows of two files, projector and output layer of a third."""
    llava, beside, found = tensors("llava"), tensors("embeddings_qformer"), {}
    for name, x in tensors("llm").items():
        if not name.endswith("inv_freq"):
            found[name.replace(PREFIX, "model.")] = x
    if lora == "merged":
        for name in [name for name in found if name.endswith("lora_A.default.weight")]:
            a, b = found.pop(name), found.pop(name.replace("lora_A", "lora_B"))
            kernel = name.replace("lora_A.default.", "")
            found[kernel] = found[kernel] + LORA["alpha"] / LORA["rank"] * (b @ a)
    # Only the added rows of SmartEdit's files are valid.
    known = description()["sizes"]["llm_vocab_before"]
    for name, new in (("model.embed_tokens.weight", found), ("lm_head.weight", beside)):
        found[name] = np.concatenate([llava[name][:known], new[name][known:]])
    return found | {f"model.mm_projector.{part}": beside[f"mm_projector.{part}"] for part in ("weight", "bias")}


def qformer_config():
    sizes = description()["sizes"]
    widths = {"encoder_hidden_size": description()["json_files"]["LLaVA/config.json"]["hidden_size"]}
    return {"architectures": ["SmartEditQFormer"], **sizes["qformer"], **widths, "num_queries": sizes["queries"]}


def interaction_config():
    sizes = description()["sizes"]["bim"]
    unet = description()["json_files"]["sd/unet/config.json"]
    return {
        "architectures": ["SmartEditInteraction"],
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["mlp"],
        "attention_downsample_rate": sizes["downsample"],
        "layer_norm_eps": sizes["layer_norm_eps"],
        "context_size": unet["cross_attention_dim"],
        "residual_size": unet["block_out_channels"][0],
        "context_factor": sizes["context_factor"],
    }


def _write_tokenizers(out):
    _write_json(out / "tokenizer" / "vocab.json", description()["json_files"]["sd/tokenizer/vocab.json"])
    (out / "tokenizer" / "merges.txt").write_text(description()["text_files"]["sd/tokenizer/merges.txt"], "utf-8")
    for name, value in description()["json_files"].items():
        folder, _, file = name.rpartition("/")
        if folder == "sd/tokenizer" and file != "vocab.json":
            _write_json(out / "tokenizer" / file, value)
        if folder == "vicuna" and file != "config.json":
            _write_json(out / "language_tokenizer" / file, value)
    _write_json(out / "language_tokenizer" / "added_tokens.json", description()["added_tokens"])
    shutil.copyfile(FIXTURE / "tokenizer.model", out / "language_tokenizer" / "tokenizer.model")


def _write(folder, values, config, stem="model"):
    _write_json(folder / "config.json", config)
    save_file({name: np.ascontiguousarray(x) for name, x in values.items()}, folder / f"{stem}.safetensors")


def _write_json(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
