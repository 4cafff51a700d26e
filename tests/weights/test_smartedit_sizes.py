"""The conversion at the sizes of 7B and 13B: names, parameters, bytes and memory, from files that take no space.

Their headers are those of the published files; what follows is a hole, which is read as zeros.
"""

import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from abstract_tasks import NETWORKS
from flax.traverse_util import flatten_dict
from published_smartedit import COUNTS, PUBLISHED, Size, embeddings_file, interaction_file, language_model_file
from smartedit_dirs import BASE, EMBEDDINGS, INTERACTION, LLM, UNET, VISION, convert
from torch_files import Part, save_torch_zip
from toy_llama import NORMAL, toy_pieces, write_model

from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights import kinds, smartedit_conversion
from rewardedit_jax.weights.conversion import Written
from rewardedit_jax.weights.files import _shards, write_json
from rewardedit_jax.weights.smartedit_sources import open_sources

HALF, BFLOAT, FULL = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
CONFIGS = {
    f"{BASE}/unet": {"_class_name": "UNet2DConditionModel", **NETWORKS["unet"]},
    f"{BASE}/vae": {"_class_name": "AutoencoderKL", **NETWORKS["vae"]},
    f"{BASE}/text_encoder": {"architectures": ["CLIPTextModel"], **NETWORKS["text_encoder"]},
    VISION: NETWORKS["vision_encoder"],
}
# Of the U-Net and what is around it, where only the language model matters.
SMALL = {
    f"{BASE}/unet": {"block_out_channels": [32, 64], "layers_per_block": 1, "down_block_types": DOWN[2:],
                     "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]},
    f"{BASE}/vae": {"block_out_channels": [32], "layers_per_block": 1, "down_block_types": ["DownEncoderBlock2D"],
                    "up_block_types": ["UpDecoderBlock2D"]},
    f"{BASE}/text_encoder": {"num_hidden_layers": 1, "vocab_size": 1000, "bos_token_id": 998, "eos_token_id": 999},
    VISION: {"num_hidden_layers": 2},
}  # fmt: skip
KINDS = {
    f"{BASE}/unet": kinds.UNET,
    f"{BASE}/vae": kinds.VAE,
    f"{BASE}/text_encoder": kinds.CLIP_TEXT,
    VISION: kinds.CLIP_VISION,
}


def published(size, words=32_000, images=32, small=False):
    """(configs by folder, stem → name → (type, shape)) of all weight files."""
    configs = {folder: config | (SMALL[folder] if small else {}) for folder, config in CONFIGS.items()}
    files = {}
    for folder, kind in KINDS.items():
        config = configs[folder] | ({"in_channels": 8} if kind is kinds.UNET else {})
        files[f"{folder}/{kind.stem}"] = {name: (FULL, shape) for name, shape in torch_shapes(kind, config).items()}
    unet = files.pop(f"{BASE}/unet/{kinds.UNET.stem}")
    language = language_model_file(size, words + 3 + images)
    beside = embeddings_file(size, words + 3 + images)
    projector = {name: shape for name, shape in beside.items() if name.startswith("mm_projector")}
    vocabulary = (words + 3, size.width)
    llava = {"model.embed_tokens.weight": vocabulary, "lm_head.weight": vocabulary, "model.norm.weight": (size.width,)}
    llava |= {f"model.{name}": shape for name, shape in projector.items()}
    files |= {
        LLM: {n: (FULL if "lora" in n or "embed" in n else BFLOAT, shape) for n, shape in language.items()},
        EMBEDDINGS: {n: (np.dtype(np.int64) if "position_ids" in n else FULL, shape) for n, shape in beside.items()},
        UNET: {f"unet.{name}": entry for name, entry in unet.items()},
        INTERACTION: {name: (FULL, shape) for name, shape in interaction_file(unet["conv_in.weight"][1][0]).items()},
        "LLaVA/model": {name: (HALF, shape) for name, shape in llava.items()},
    }
    sizes = {"num_hidden_layers": size.layers, "hidden_size": size.width, "intermediate_size": size.mlp}
    sizes |= {"num_attention_heads": size.width // 128, "mm_hidden_size": 1024}
    return {**configs, "LLaVA": {"model_type": "llava", **sizes}}, files


def torch_shapes(kind, config):
    """Torch name → shape of a network's parameters."""
    network = kind.config.from_hf(config)
    shapes = {}
    for path, leaf in flatten_dict(abstract_params(kind.module(network)), sep="/").items():
        ((rule, name),) = [(r, name) for r in kind.table(network).rules if (name := r.to_torch(path)) is not None]
        shapes[name] = rule.transform.to_torch(np.broadcast_to(np.float32(0), leaf.shape)).shape
    return shapes


def write_published(out, configs, files, form="safetensors"):
    for folder, config in configs.items():
        write_json(config, out / folder / "config.json")
    folders = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    write_json(dict.fromkeys(folders), out / BASE / "model_index.json")
    write_json({"_class_name": "PNDMScheduler"}, out / BASE / "scheduler" / "scheduler_config.json")
    lora = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}
    write_json(lora, (out / LLM).parent / "adapter_config.json")
    (out / BASE / "tokenizer").mkdir()
    pieces, words = toy_pieces(), files["LLaVA/model"]["lm_head.weight"][1][0] - 3
    rare = [(chr(0x4E00 + i), -1e6 - i, NORMAL) for i in range(words - len(pieces))]
    write_model(out / "LLaVA" / "tokenizer.model", [*pieces, *rare])
    trained = [prod(shape) for stem in SMARTEDIT for dtype, shape in files[stem].values() if dtype == FULL]
    shared, end = np.zeros(sum(trained) if form == "bin" else 0, FULL), 0
    for stem, entries in files.items():
        (out / stem).parent.mkdir(parents=True, exist_ok=True)
        if form == "safetensors" or stem not in SMARTEDIT:
            write_hole(out / f"{stem}.safetensors", entries)
            continue
        state = {}
        for name, (dtype, shape) in entries.items():
            strides = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
            state[name] = Part(shared, end, shape, strides) if dtype == FULL else np.zeros(shape, dtype)
            end += prod(shape) if dtype == FULL else 0
        save_torch_zip(state, out / f"{stem}.bin")
    return out


SMARTEDIT = (LLM, EMBEDDINGS, UNET, INTERACTION)
CODES = {HALF: "F16", BFLOAT: "BF16", FULL: "F32", np.dtype(np.int64): "I64"}


def write_hole(file, entries):
    """A safetensors file whose tensors are a hole."""
    header, end = {}, 0
    for name, (dtype, shape) in entries.items():
        start, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


# Parameters of the Q-Formers, which differ by the width of the states they read.
QUERIES = {"7B": 65_015_040, "13B": 69_733_632}


def planned(sources, monkeypatch):
    """folder → part of a conversion that stops before it writes."""
    found = {}
    monkeypatch.setattr(
        smartedit_conversion, "write_parts", lambda parts, *_: [found.update(parts), Written(0, 0, None)][1]
    )
    convert(sources, sources / "out")
    return found


def size_of(part):
    return sum(tensor.nbytes for tensor in part.tensors.values())


@pytest.mark.slow
@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(tmp_path, monkeypatch, size):
    layers, width, mlp = PUBLISHED[size]
    configs, files = published(PUBLISHED[size])
    assert [len(files[stem]) for stem in SMARTEDIT] == COUNTS[size]
    sources = write_published(tmp_path, configs, files)
    parts = planned(sources, monkeypatch)
    found = {folder: sum(prod(x.shape) for x in part.tensors.values()) for folder, part in parts.items()}
    body = layers * (4 * width**2 + 3 * width * mlp + 2 * width) + width
    rows, projector = 32_035 * width, 1024 * width + width
    assert found["language_model"] == body + 2 * rows + projector
    assert (found["qformer"], found["interaction"]) == (QUERIES[size], 29_211_200 + 1024)
    others = {"unet": 859_532_484, "vae": 83_653_863, "text_encoder": 123_060_480, "vision_encoder": 303_179_776}
    assert found.items() >= others.items()
    assert parts["qformer"].config["num_attention_heads"] == 12
    # Merged projections are float32, as LoRA is; the rest of the body is bfloat16.
    merged = 2 * layers * width**2
    assert size_of(parts["language_model"]) == 2 * (body - merged) + 4 * (merged + 2 * rows + projector)
    opened = open_sources(str(sources / "SmartEdit"), str(sources / "LLaVA"))
    lora = 2 * layers * 2 * 8 * width
    kept, half = (smartedit_conversion._language_part(opened, *how) for how in ((True, None), (False, "bfloat16")))
    assert size_of(kept) == 2 * body + 4 * (lora + 2 * rows + projector)
    assert size_of(half) == 2 * (body + 2 * rows + projector)
    shards = _shards(parts["language_model"].tensors)
    assert max(sum(x.nbytes for x in shard.values()) for shard in shards) <= 5e9


# In a process of its own, as memory once taken stays in the peak; JAX has given shapes before the first look.
MEASURE = """
import json, sys
from pathlib import Path
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights import smartedit_conversion
from rewardedit_jax.weights.conversion import peak_memory

write, before = smartedit_conversion.write_parts, []
smartedit_conversion.write_parts = lambda *arguments: before.append(peak_memory()) or write(*arguments)
written = smartedit_conversion.convert_smartedit(*sys.argv[1:5], Path(sys.argv[5]))
print(json.dumps([before[0], written.peak]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which Linux has")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_peak_memory(tmp_path, form):
    """What reading and writing add is about twice the largest tensor: the embeddings of the vocabulary, in float32.

    Measured: 1.7 times from safetensors, whose pages are mapped while a tensor is read, and 1.2 times from PyTorch's.
    """
    configs, files = published(Size(12, 1024, 2752), words=16_000, small=True)
    sources = write_published(tmp_path, configs, files, form)
    arguments = [str(sources / name) for name in ("SmartEdit", "LLaVA", VISION, BASE)]
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments, str(tmp_path / "out")],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    before, peak = json.loads(told.stdout)
    largest = max(file.stat().st_size for file in (sources / "SmartEdit").rglob("*.*"))
    tensor = max(prod(shape) * dtype.itemsize for entries in files.values() for dtype, shape in entries.values())
    assert peak - before < 1.25 * largest
    assert peak - before < 2 * tensor + 20e6
