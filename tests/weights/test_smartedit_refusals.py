"""Published files that are no SmartEdit, or do not belong together: one sentence each, and nothing is written."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from smartedit_dirs import BASE, EMBEDDINGS, INTERACTION, LLM, PREFIX, UNET, VISION, content, convert
from torch_files import Call, Global, save_torch_zip
from toy_llama import toy_pieces, write_model

from rewardedit_jax.weights import conversion
from rewardedit_jax.weights.engine import WeightMismatch
from rewardedit_jax.weights.files import WeightFileError, read_json, write_json
from rewardedit_jax.weights.hub import ModelNotFound
from rewardedit_jax.weights.safe_pickle import UnsafePickle


@pytest.fixture
def changeable(published_smartedit, tmp_path):
    return Path(shutil.copytree(published_smartedit, tmp_path / "published"))


def edit(file, change):
    """Change the tensors of a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def set_json(file, **values):
    write_json(read_json(file) | values, file)


def tensors_of(stem, change):
    return lambda root: edit(root / f"{stem}.safetensors", change)


def scaled(name, factor):
    return lambda tensors: tensors.update({name: (tensors[name] * factor).astype(tensors[name].dtype)})


def renamed(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def replaced_by_torch(stem, value, keep=None):
    def change(root):
        (root / f"{stem}.safetensors").unlink()
        file = save_torch_zip(value, root / f"{stem}.bin")
        file.write_bytes(file.read_bytes()[:keep])

    return change


def cut(stem, keep):
    return lambda root: (file := root / f"{stem}.safetensors").write_bytes(file.read_bytes()[:keep])


def json_of(file, **values):
    return lambda root: set_json(root / file, **values)


def removed(name):
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


ADAPTER = "SmartEdit/LLM-15000/adapter_config.json"
LAYER = f"{PREFIX}layers.1."
LAST_SHARD = "LLaVA/model-00002-of-00002"
NORM = "norm1.bias"
REFUSED = {
    # wrong files, or damaged ones
    "a tensor of the language model": (
        tensors_of(LLM, renamed(f"{LAYER}mlp.up_proj.weight", "old.weight")),
        WeightMismatch,
        r"LLM-15000.*2 faults(.|\n)*old\.weight: no rule(.|\n)*such as model\.layers\.1\.mlp\.up_proj\.weight\n"
        r".* 27 April 2024",
    ),
    "lora": (
        tensors_of(LLM, lambda x: x.pop(f"{LAYER}self_attn.v_proj.lora_B.default.weight")),
        WeightMismatch,
        r"no tensor fills it, such as .*v_proj\.lora_B\.default\.weight",
    ),
    "a tensor beside the Q-Former": (
        tensors_of(EMBEDDINGS, lambda x: x.update(other=x["sd_query_tokens"])),
        WeightMismatch,
        r"embeddings_qformer(.|\n)*other: no rule takes it",
    ),
    "a tensor of the Q-Former": (
        tensors_of(EMBEDDINGS, renamed("sd_qformer.embeddings.LayerNorm.bias", "sd_other")),
        WeightMismatch,
        r"embeddings_qformer(.|\n)*sd_other: no rule takes it(.|\n)*such as sd_qformer\.embeddings\.LayerNorm\.bias",
    ),
    "LLaMA's beside the Q-Former": (
        tensors_of(EMBEDDINGS, lambda x: x.update({f"{PREFIX}norm.weight": x["mm_projector.bias"].copy()})),
        WeightMismatch,
        r"embeddings_qformer(.|\n)*norm\.weight: no rule takes it",
    ),
    "heads that do not divide the width": (
        tensors_of(EMBEDDINGS, lambda x: x.update(sd_query_tokens=x["sd_query_tokens"][..., :30].copy())),
        WeightFileError,
        r"embeddings_qformer.*hidden_size=30",
    ),
    "no queries": (
        tensors_of(EMBEDDINGS, lambda x: x.pop("sd_query_tokens")),
        WeightFileError,
        r"embeddings_qformer\.safetensors lacks the tensor sd_query_tokens",
    ),
    "another shape": (
        tensors_of(EMBEDDINGS, lambda x: x.update({"lm_head.weight": x["lm_head.weight"][1:]})),
        WeightMismatch,
        r"embeddings_qformer(.|\n)*lm_head\.weight gives shape \(64, 646\), the network wants \(64, 647\)",
    ),
    "the interaction module": (
        tensors_of(INTERACTION, lambda x: x.pop(f"modulate_transformer.layers.0.{NORM}")),
        WeightMismatch,
        rf"modulate-15000.*1 faults(.|\n)*no tensor fills it, such as modulate_transformer\.layers\.0\.{NORM}\n.*2024",
    ),
    "the U-Net": (
        tensors_of(UNET, renamed("unet.conv_in.bias", "unet.conv_new.bias")),
        WeightMismatch,
        r"unet-15000.*2 faults(.|\n)*conv_new\.bias: no rule(.|\n)*no tensor fills it, such as conv_in\.bias",
    ),
    "a U-Net with more": (
        tensors_of(UNET, lambda x: x.update({"other.weight": x["unet.conv_in.bias"].copy()})),
        WeightMismatch,
        r"unet-15000(.|\n)*other\.weight: no rule takes it",
    ),
    "a U-Net of four channels": (
        tensors_of(UNET, lambda x: x.update({"unet.conv_in.weight": x["unet.conv_in.weight"][:, :4].copy()})),
        WeightMismatch,
        r"unet-15000(.|\n)*conv_in\.weight gives shape \(3, 3, 4, 32\), the network wants \(3, 3, 8, 32\)",
    ),
    "quantised": (
        tensors_of(INTERACTION, lambda x: x.update({k: v.astype(np.int8) for k, v in x.items()})),
        WeightFileError,
        r"interaction: tensor .* int8: expected floating-point",
    ),
    "files changed for each other": (
        lambda root: shutil.copy(root / f"{INTERACTION}.safetensors", root / f"{EMBEDDINGS}.safetensors"),
        WeightFileError,
        r"embeddings_qformer.*lacks the tensor sd_query_tokens",
    ),
    "half a zip": (
        replaced_by_torch(INTERACTION, {"a": np.ones(300, np.float32)}, keep=-100),
        WeightFileError,
        r"modulate-15000/adapter_model\.bin.*again",
    ),
    "half a file": (cut(UNET, -10), WeightFileError, r"unet-15000/adapter_model\.safetensors.*again"),
    # missing files
    **{
        f"no {Path(stem).parent}": (
            removed(f"{stem}.safetensors"),
            ModelNotFound,
            rf"lacks {stem.removeprefix('SmartEdit/')}\.bin.*TencentARC/SmartEdit-7B",
        )
        for stem in (LLM, EMBEDDINGS, UNET, INTERACTION)
    },
    "none of SmartEdit's": (
        removed("SmartEdit"),
        ModelNotFound,
        r"--smartedit: .*no directory.*TencentARC/",
    ),
    "no LLaVA": (removed("LLaVA"), ModelNotFound, r"--llava: .*no directory.*mmaaz60/LLaVA"),
    "no image tower": (removed("openai"), ModelNotFound, r"--vision: .*no directory.*openai/clip-vit-large-patch14"),
    "no base": (removed(BASE), ModelNotFound, r"--base: .*no directory.*stable-diffusion-v1-5/stable-diffusion-v1-5"),
    **{
        f"no {name} of the base": (removed(f"sd/{name}"), ModelNotFound, rf"--base: .*sd lacks {name}/\. .*stable-diff")
        for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    },
    "no settings of the U-Net": (removed("sd/unet/config.json"), WeightFileError, r"unet/config\.json is not there"),
    "no weights of the vae": (
        removed("sd/vae/diffusion_pytorch_model.safetensors"),
        WeightFileError,
        r"no weights in .*vae",
    ),
    "no words": (removed("LLaVA/tokenizer.model"), ModelNotFound, r"LLaVA/tokenizer\.model is not there.*mmaaz60"),
    "no shard": (removed(f"{LAST_SHARD}.safetensors"), WeightFileError, r"shards .* not there: model-00002-of-00002"),
    "no settings of lora": (
        removed(ADAPTER),
        ModelNotFound,
        r"neither .*LLM-15000/adapter_config\.json nor .*SmartEdit/adapter_config\.json.*TencentARC",
    ),
    "two training steps": (
        lambda root: shutil.copytree(root / "SmartEdit" / "LLM-15000", root / "SmartEdit" / "LLM-5000"),
        WeightFileError,
        r"LLM-15000/.*LLM-5000/.*one training step",
    ),
    # settings and sizes
    "rank 0": (json_of(ADAPTER, r=0), WeightFileError, r"adapter_config\.json: r=0"),
    "another rank": (json_of(ADAPTER, r=4), WeightMismatch, r"8 faults(.|\n)*lora_A.*shape \(64, 2\).*wants \(64, 4\)"),
    "a target that is no layer": (
        json_of(ADAPTER, target_modules=["q_proj"]),
        WeightMismatch,
        r"4 faults(.|\n)*v_proj\.lora_A\.default\.weight: the network has no parameter",
    ),
    "no targets": (json_of(ADAPTER, target_modules=[]), WeightFileError, r"adapter_config\.json: target_modules=\[\]"),
    "13B with 7B": (json_of("LLaVA/config.json", hidden_size=80), WeightFileError, r"width 64, --llava has 80: .*7B"),
    "a smaller vocabulary": (
        tensors_of(LLM, lambda x: x.update({f"{PREFIX}embed_tokens.weight": x[f"{PREFIX}embed_tokens.weight"][:640]})),
        WeightFileError,
        r"a vocabulary of 640, --llava one of 640",
    ),
    "another order of tokens": (
        lambda root: write_json(
            {"<im_patch>": 641, "<im_start>": 640, "<im_end>": 642}, root / "LLaVA/added_tokens.json"
        ),
        WeightFileError,
        r"added_tokens\.json: <im_patch> has the id 641: expected 640",
    ),
    "a setting of LLaVA": (json_of("LLaVA/config.json", hidden_act="gelu"), WeightFileError, r"hidden_act='gelu'"),
    "words of another model": (
        lambda root: write_model(root / "LLaVA/tokenizer.model", toy_pieces()),
        WeightFileError,
        r"--llava: .*tokenizer\.model has \d+ pieces: expected 640",
    ),
    "no class of the noise schedule": (
        lambda root: write_json({}, root / "sd/scheduler/scheduler_config.json"),
        WeightFileError,
        r"scheduler_config\.json: .*_class_name",
    ),
    "the image tower of another model": (
        lambda root: [shutil.rmtree(root / VISION), shutil.copytree(root / BASE / "vae", root / VISION)],
        WeightFileError,
        r"--vision: .*is no CLIP",
    ),
    "another image tower": (
        json_of(f"{VISION}/config.json", vision_config={"hidden_size": 48}),
        WeightFileError,
        r"--vision: .*hidden_size=48: expected 32",
    ),
    # other versions of LLaVA
    "the settings of LLaVA 1.5": (
        json_of("LLaVA/config.json", mm_projector_type="mlp2x_gelu"),
        WeightFileError,
        r"--llava: .*two layers.*LLaVA 1\.1",
    ),
    "the projector of LLaVA 1.5": (
        tensors_of(LAST_SHARD, lambda x: x.update({"model.mm_projector.0.weight": np.ones(3, np.float32)})),
        WeightFileError,
        r"--llava: .*two layers.*LLaVA 1\.1",
    ),
    "the image tower of LLaVA 1.5": (
        json_of("LLaVA/config.json", mm_vision_tower="openai/clip-vit-large-patch14-336"),
        WeightFileError,
        r"--llava: .*clip-vit-large-patch14-336.*224 px",
    ),
    "images of 336 px": (
        lambda root: set_json(
            root / VISION / "config.json",
            vision_config=read_json(root / VISION / "config.json")["vision_config"] | {"image_size": 336},
        ),
        WeightFileError,
        r"--vision: .*image_size=336.*224 px",
    ),
    "Vicuna": (
        lambda root: [
            edit(root / f"{LAST_SHARD}.safetensors", lambda x: x.pop("model.mm_projector.bias")),
            write_json(
                {"weight_map": {n: m for n, m in weight_map(root).items() if n != "model.mm_projector.bias"}},
                root / "LLaVA" / "model.safetensors.index.json",
            ),
        ],
        WeightFileError,
        r"--llava: .*lacks model\.mm_projector\.bias: .*Vicuna",
    ),
    "another projector": (
        tensors_of(LAST_SHARD, scaled("model.mm_projector.weight", 1.1)),
        WeightFileError,
        r"model\.mm_projector\.weight in .*LLaVA differs from mm_projector\.weight in .*embeddings_qformer",
    ),
    "delta weights": (
        tensors_of(LAST_SHARD, scaled("model.norm.weight", 0.01)),
        WeightFileError,
        r"model\.norm\.weight in .*LLaVA differs .*delta",
    ),
}


def weight_map(root):
    return read_json(root / "LLaVA" / "model.safetensors.index.json")["weight_map"]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(changeable, tmp_path, case):
    change, error, told = REFUSED[case]
    change(changeable)
    with pytest.raises(error, match=told) as raised:
        convert(changeable, tmp_path / "out")
    assert str(changeable) in str(raised.value) or "interaction: " in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_calls_is_not_run(changeable, tmp_path, calls):
    replaced_by_torch(LLM, {"a": Call(Global("os", "system"), ("called",))})(changeable)
    with pytest.raises(UnsafePickle, match=r"LLM-15000/adapter_model\.bin.*system"):
        convert(changeable, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert calls == []


def test_rounding_is_no_difference(changeable, tmp_path):
    """LLaVA's weights come in float16 or bfloat16, SmartEdit's in float32 or bfloat16."""
    edit(
        changeable / f"{LAST_SHARD}.safetensors",
        lambda x: x.update({n: v.astype(ml_dtypes.bfloat16) for n, v in x.items() if "projector" in n or "norm" in n}),
    )
    convert(changeable, tmp_path / "out")


def test_older_files_have_embeddings_in_two_places(changeable, tmp_path):
    """Those beside the Q-Former are not read."""
    convert(changeable, tmp_path / "out")
    name = f"{PREFIX}embed_tokens.weight"
    edit(changeable / f"{EMBEDDINGS}.safetensors", lambda x: x.update({name: np.ones((647, 64), np.float32)}))
    convert(changeable, tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "out")


def test_what_is_read_is_not_written_over(changeable):
    before = content(changeable)
    for name in (BASE, "LLaVA", VISION):
        with pytest.raises(ValueError, match="expected another directory"):
            convert(changeable, changeable / name)
    assert content(changeable) == before


def test_the_disk_is_too_small(published_smartedit, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: SimpleNamespace(free=4_000_000))
    with pytest.raises(OSError, match=r"out: 0\.0 GB are to be written, and 0\.0 GB are free"):
        convert(published_smartedit, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["LLM-15000", "."])
def test_the_settings_of_lora_are_found_where_they_are_published_and_where_they_are_read(changeable, tmp_path, folder):
    (changeable / "SmartEdit" / "LLM-15000" / "adapter_config.json").rename(changeable / "adapter_config.json")
    (changeable / "adapter_config.json").rename(changeable / "SmartEdit" / folder / "adapter_config.json")
    assert convert(changeable, tmp_path / "out").tensors == 580
