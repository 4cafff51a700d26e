"""Published SmartEdit files → a pipeline directory: each tensor against its sources, whole or killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
from paths import ROOT
from safetensors.numpy import load_file
from smartedit_dirs import (
    BASE,
    EMBEDDINGS,
    INTERACTION,
    LLM,
    PREFIX,
    UNET,
    VISION,
    content,
    convert,
    description,
    write_sources,
)

from rewardedit_jax.data.llama_tokenizer import load_language_tokenizer
from rewardedit_jax.data.smartedit_prompts import TemplatePair, conversation, image_tokens
from rewardedit_jax.weights.files import read_json, read_weights, write_json
from rewardedit_jax.weights.pretrained import load_pretrained
from rewardedit_jax.weights.smartedit_conversion import convert_smartedit


@pytest.fixture(scope="module")
def converted(published_smartedit, tmp_path_factory):
    out = tmp_path_factory.mktemp("smartedit") / "converted"
    convert(published_smartedit, out)
    return out


def read(folder):
    return dict(read_weights(folder).items())


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def language_model(sources, keep):
    """Its tensors: what the published loaders build."""
    own, head, llava = load_file(sources / f"{LLM}.safetensors"), load_file(sources / f"{EMBEDDINGS}.safetensors"), {}
    for shard in (sources / "LLaVA").glob("*.safetensors"):
        llava |= load_file(shard)
    expected = {f"model.mm_projector.{n}": head[f"mm_projector.{n}"] for n in ("weight", "bias")}
    for name, new in (("model.embed_tokens.weight", own[f"{PREFIX}embed_tokens.weight"]), ("lm_head.weight", None)):
        new = head[name] if new is None else new
        expected[name] = np.concatenate([llava[name][:640].astype(np.float32), new[640:647]])
    for name, x in own.items():
        short = name.removeprefix(PREFIX)
        if "inv_freq" in name or short == "embed_tokens.weight" or ("lora_" in name and not keep):
            continue
        if re.search(r"self_attn\.[qv]_proj\.weight", name) and not keep:
            a, b = (own[name.replace("weight", f"lora_{side}.default.weight")].astype(np.float64) for side in "AB")
            x = x.astype(np.float64) + 4 / 2 * np.einsum("or,ri->oi", b, a)
        expected[f"model.{short}"] = x
    return expected


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("keep_lora", [False, True])
def test_the_language_model(published_smartedit, tmp_path, keep_lora, dtype):
    written = convert(published_smartedit, tmp_path, keep_lora=keep_lora, dtype=dtype)
    found, expected = read(tmp_path / "language_model"), language_model(published_smartedit, keep_lora)
    assert set(found) == set(expected)
    types = set()
    for name, tensor in expected.items():
        stored = tensor.dtype if dtype is None else np.dtype(getattr(ml_dtypes, dtype, dtype))
        if tensor.dtype == np.float64 and dtype is None:
            stored = np.dtype(np.float32)  # the sum of bfloat16 and float32 is not rounded
        assert found[name].dtype == stored, name
        types.add(stored.name)
        exact = tensor.astype(np.float32)
        # Sums in another order differ by some of the last of 24 bits; 8 bits remain in bfloat16.
        error = np.abs(found[name].astype(np.float32) - exact)
        assert (error <= np.abs(exact) * (2**-8 if stored.itemsize == 2 and tensor.dtype != stored else 0) + 2e-6).all()
    assert types == ({"bfloat16", "float32"} if dtype is None else {dtype})
    config = read_json(tmp_path / "language_model" / "config.json")
    assert config.get("lora") == (
        {"rank": 2, "alpha": 4, "dropout": 0.05, "targets": [".*/q_proj", ".*/v_proj"]} if keep_lora else None
    )
    tensors = [x for folder in tmp_path.glob("*/*.safetensors") for x in load_file(folder).values()]
    assert (written.tensors, written.size) == (len(tensors), sum(x.nbytes for x in tensors))


def test_the_other_networks(published_smartedit, converted):
    own = load_file(published_smartedit / f"{UNET}.safetensors")
    assert_equal(read(converted / "unet"), {name.removeprefix("unet."): x for name, x in own.items()})
    assert_equal(read(converted / "interaction"), load_file(published_smartedit / f"{INTERACTION}.safetensors"))
    own = load_file(published_smartedit / f"{EMBEDDINGS}.safetensors").items()
    queries = {name: x for name, x in own if name.startswith("sd_") and name != "sd_qformer.embeddings.position_ids"}
    assert_equal(read(converted / "qformer"), queries)
    clip = load_file(published_smartedit / VISION / "model.safetensors").items()
    tower = {name: x for name, x in clip if name.startswith("vision_model.") and not name.endswith("position_ids")}
    assert_equal(read(converted / "vision_encoder"), tower)
    for name in ("vae", "text_encoder"):
        before = {n: x for n, x in read(published_smartedit / BASE / name).items() if not n.endswith("position_ids")}
        assert_equal(read(converted / name), before)


def test_settings(published_smartedit, converted):
    """Sizes that no config tells come from shapes: the fixture's are those that it was made with."""
    sizes = description()["sizes"]
    configs = {file.parent.name: read_json(file) for file in converted.glob("*/config.json")}
    qformer, interaction = configs["qformer"], configs["interaction"]
    assert sizes["qformer"].items() <= qformer.items()
    assert (qformer["num_queries"], qformer["encoder_hidden_size"]) == (7, 64)
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    found = [interaction[name] for name in (*names, "attention_downsample_rate", "layer_norm_eps", "context_factor")]
    assert found == list(sizes["bim"].values())
    assert (interaction["context_size"], interaction["residual_size"]) == (32, 32)
    assert configs["unet"] == read_json(published_smartedit / BASE / "unet" / "config.json") | {"in_channels": 8}
    llava = read_json(published_smartedit / "LLaVA" / "config.json")
    assert (
        configs["language_model"].items()
        >= {
            name: llava[name] for name in ("hidden_size", "rms_norm_eps", "mm_hidden_size", "num_attention_heads")
        }.items()
    )
    assert configs["language_model"]["vocab_size"] == sizes["llm_vocab_after"]
    assert "torch_dtype" not in configs["language_model"]
    assert configs["vision_encoder"]["architectures"] == ["CLIPVisionModel"]
    assert configs["vision_encoder"]["image_size"] == 28
    for name in ("vae", "text_encoder"):
        assert configs[name] == read_json(published_smartedit / BASE / name / "config.json")


def test_the_networks_load(converted):
    for folder in converted.glob("*/config.json"):
        load_pretrained(folder.parent)


def test_the_language_tokenizer(converted):
    """It has SmartEdit's tokens in place of LLaVA's, and gives the ids of the published code."""
    folder, fixture = converted / "language_tokenizer", description()
    assert {file.name for file in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert read_json(folder / "tokenizer_config.json")["model_max_length"] == 256
    tokenizer = load_language_tokenizer(folder)
    assert tokenizer.added == fixture["added_tokens"]
    assert len(fixture["token_cases"]) == 23
    for case in fixture["token_cases"]:
        pair = TemplatePair(*fixture["conversation"]["pairs"][case["pair"]])
        prompt, reply = conversation(case["instruction"], image_tokens(tokenizer), pair)
        assert tokenizer.encode(prompt) == case["prompt_ids"]
        assert tokenizer.encode(prompt + reply) == case["prompt_ids"] + case["reply_ids"]


def test_other_files(published_smartedit, converted):
    for name in ("tokenizer", "scheduler"):
        assert content(converted / name) == content(published_smartedit / BASE / name)
    index = read_json(converted / "model_index.json")
    assert index["_class_name"] == "SmartEditPipeline"
    before = read_json(published_smartedit / BASE / "scheduler" / "scheduler_config.json")
    assert index["scheduler"] == ["diffusers", before["_class_name"]]
    named = {name for name, value in index.items() if isinstance(value, list) and value != [None, None]}
    assert named == {folder.name for folder in converted.iterdir() if folder.is_dir()}


def test_sixteen_bits_and_their_values_in_float32_give_the_same(converted, tmp_path):
    convert(write_sources(tmp_path / "published", float32=True), tmp_path / "out")
    before, found = read(converted / "language_model"), read(tmp_path / "out" / "language_model")
    assert {x.dtype.name for x in found.values()} == {"float32"}
    assert_equal(found, {name: x.astype(np.float32) for name, x in before.items()})


def test_hub_ids(published_smartedit, converted, tmp_path, monkeypatch):
    """Each is downloaded: what is not asked for is not there."""
    folders = {"o/edit": "SmartEdit", "o/llava": "LLaVA", "o/clip": VISION, "o/sd": BASE}

    class Api:
        def model_info(self, repo, timeout):
            files = [p for p in (published_smartedit / folders[repo]).rglob("*") if p.is_file()]
            names = [str(file.relative_to(published_smartedit / folders[repo])) for file in files]
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])

    def download(repo, allow_patterns):
        source = published_smartedit / folders[repo]
        for file in filter(Path.is_file, source.rglob("*")):
            if any(fnmatch(str(file.relative_to(source)), pattern) for pattern in allow_patterns):
                target = tmp_path / repo / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        return str(tmp_path / repo)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    convert_smartedit(*folders, tmp_path / "out")
    assert content(tmp_path / "out") == content(converted)
    assert not list((tmp_path / "o" / "sd" / "unet").glob("*.safetensors"))  # its weights are not used


@pytest.mark.oracle
def test_files_of_pytorch_give_the_same_bytes(converted, tmp_path):
    """Each of SmartEdit's four files has the buffer of all trained tensors, whose parts are at an offset."""
    pytest.importorskip("torch")
    sources = write_sources(tmp_path / "published", form="bin")
    sizes = [file.stat().st_size for file in (sources / "SmartEdit").rglob("*.bin")]
    assert len(sizes) == 4
    assert min(sizes) > 3.7e6
    convert(sources, tmp_path / "out")
    assert content(tmp_path / "out") == content(converted)


KILLED = """
import os, signal, sys
from pathlib import Path
from rewardedit_jax.weights import streaming
from rewardedit_jax.weights.smartedit_conversion import convert_smartedit

write, count = streaming._write, iter(range(int(sys.argv[6]) + 1))

def dying(*arguments):
    write(*arguments)
    if next(count, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

streaming._write = dying
convert_smartedit(*sys.argv[1:5], Path(sys.argv[5]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tensors", [0, 300, 578])
def test_a_killed_conversion_leaves_the_model_of_before(published_smartedit, converted, tmp_path, tensors):
    out = tmp_path / "out"
    write_json({"_class_name": "Other", "unet": ["diffusers", "X"]}, out / "model_index.json")
    write_json({"of": "before"}, out / "unet" / "config.json")
    before = content(out)
    arguments = [str(published_smartedit / name) for name in ("SmartEdit", "LLaVA", VISION, BASE)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, str(out), str(tensors)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert {name: x for name, x in content(out).items() if not name.startswith(".saving/")} == before
    convert(published_smartedit, out)
    assert content(out) == content(converted)


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "convert.py"), *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_command(published_smartedit, converted, tmp_path):
    sources = {"--llava": "LLaVA", "--vision": VISION, "--base": BASE}
    arguments = [word for name, folder in sources.items() for word in (name, published_smartedit / folder)]
    done = run("smartedit", "--smartedit", published_smartedit / "SmartEdit", *arguments, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "out") == content(converted)
    assert re.fullmatch(r"written: .*out, 580 tensors, 4\.91MB(; peak memory \d+MB)?\n", done.stdout)
    assert "interaction: 100%" in done.stderr
    done = run("smartedit", "--smartedit", tmp_path / "none", *arguments, "--out", tmp_path / "new")
    assert done.returncode == 1
    assert "error: --smartedit: there is no directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_help_says_what_each_part_is_and_where_it_is_published():
    assert "smartedit" in run("--help").stdout
    told = run("smartedit", "--help").stdout
    for name in ("TencentARC/SmartEdit-7B", "mmaaz60/LLaVA-7B-Lightening-v1-1", "openai/clip-vit-large-patch14"):
        assert name in told
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in told
