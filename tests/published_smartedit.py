"""The tiny SmartEdit of `shared/fixtures/smartedit_a` in the files of its publication, and conversions of it."""

import json
import runpy
from pathlib import Path

import pytest
from paths import SHARED_FIXTURES

from rewardedit_jax.weights.smartedit_conversion import convert_smartedit

FIXTURE = SHARED_FIXTURES / "smartedit_a"
# Files without suffix, and folders, below the folder of all sources.
LLM = "SmartEdit/LLM-15000/adapter_model"
EMBEDDINGS = "SmartEdit/embeddings_qformer/checkpoint-15000_embeddings_qformer"
UNET, INTERACTION = "SmartEdit/unet-15000/adapter_model", "SmartEdit/modulate-15000/adapter_model"
VISION, BASE = "openai/clip-vit-large-patch14", "sd"
PREFIX = "model.base_model.model."  # of the language model's tensors


def smartedit_fixture():
    """The fixture's file: sizes, settings, names and shapes."""
    if not FIXTURE.is_dir():
        pytest.skip(f"reference outputs of other authors' code are absent: no folder {FIXTURE}")
    return json.loads((FIXTURE / "smartedit_a.json").read_text())


def write_sources(out, **settings):
    """SmartEdit, LLaVA, CLIP and Stable Diffusion, as the fixture's own program writes them."""
    fixture = smartedit_fixture()
    runpy.run_path(str(FIXTURE / "make_smartedit_dir.py"))["write_smartedit_dir"](fixture, FIXTURE, out, **settings)
    return out


def convert(sources, out, **settings):
    llava, vision, base = (str(sources / name) for name in ("LLaVA", VISION, BASE))
    return convert_smartedit(str(sources / "SmartEdit"), llava, vision, base, out, **settings)


def content(folder: Path):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
