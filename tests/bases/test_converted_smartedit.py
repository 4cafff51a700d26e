"""SmartEdit from its published files to an edit: converted, loaded, saved and loaded again."""

import runpy
import sys

import jax
import numpy as np
import pytest
from paths import ROOT
from smartedit_dirs import BASE, FIXTURE, VISION, content, description, needs_smartedit, write_pipeline, write_sources

from rewardedit_jax import Editor
from rewardedit_jax.models.lora import LoRA

pytestmark = needs_smartedit
LORA = ("merge", "keep")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The argument of --lora → the directory that `launch/convert.py` writes."""
    folder = tmp_path_factory.mktemp("smartedit")
    sources = write_sources(folder / "published")
    sides = {"smartedit": "SmartEdit", "llava": "LLaVA", "vision": VISION, "base": BASE}
    given = [word for side, name in sides.items() for word in (f"--{side}", str(sources / name))]
    parse = runpy.run_path(str(ROOT / "launch" / "convert.py"))["parse"]
    with pytest.MonkeyPatch.context() as patch:
        for lora in LORA:
            arguments = ["convert.py", "smartedit", *given, "--out", str(folder / lora), "--lora", lora]
            patch.setattr(sys, "argv", arguments)
            asked = parse()
            assert asked.run(asked).startswith(f"written: {folder / lora}, ")
    return {lora: folder / lora for lora in LORA}


@pytest.fixture(scope="module")
def editors(converted):
    return {lora: Editor.load(folder) for lora, folder in converted.items()}


def edit(editor):
    """The reference's edit by DDIM, and what it wants."""
    told, arrays = description()["edit"], np.load(FIXTURE / "edit.npz")
    row = told["rows"]["ddim"]
    edited = editor.edit(
        np.load(FIXTURE / "mllm.npz")[f"source_{row}"],
        description()["instructions"][row],
        steps=told["steps"]["ddim"],
        text_guidance=told["guidance_scale"],
        image_guidance=told["image_guidance_scale"],
        sampler="ddim",
        latents=np.moveaxis(arrays["init_latents"], -3, -1),
        resolution=None,
        output="array",
    )
    return edited, arrays["ddim_image"]


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("lora", LORA)
def test_it_is_the_editor_that_is_made_without_the_conversion(editors, tmp_path, lora):
    expected = Editor.load(write_pipeline(tmp_path, lora={"merge": "merged", "keep": "kept"}[lora]))
    found = editors[lora]
    assert {x.dtype.name for x in jax.tree.leaves(found.params)} == {"float32"}  # of computation on a CPU
    # Sums with LoRA in another order differ by some of the last of 24 bits.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), found.params, expected.params)
    assert found.base.unet == expected.base.unet
    assert found.base.qformer.config == expected.base.qformer.config
    assert found.base.interaction.config == expected.base.interaction.config
    assert found.base.reading() == expected.base.reading()
    targets = (".*/q_proj", ".*/v_proj")
    kept = LoRA(rank=2, alpha=4.0, targets=targets, dropout=0.05) if lora == "keep" else None
    assert found.base.language_model.lora == kept


@pytest.mark.parametrize("lora", LORA)
def test_saved_and_loaded_it_is_the_same(editors, converted, tmp_path, lora):
    editors[lora].save(tmp_path / "saved")
    again = Editor.load(tmp_path / "saved")
    assert again.base == editors[lora].base
    assert again.base.language_tokenizer.digest() == editors[lora].base.language_tokenizer.digest()
    assert_same(again.params, editors[lora].params)
    again.save(tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "saved")
    before, after = content(converted[lora]), content(tmp_path / "saved")
    tokenizers = ("tokenizer.json", "tokenizer_config.json")
    same = ["qformer/model.safetensors", "interaction/model.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    for name in (*same, *(f"language_tokenizer/{file}" for file in tokenizers)):
        assert after[name] == before[name]


@pytest.mark.slow
@pytest.mark.parametrize("lora", LORA)
def test_an_edit(editors, tmp_path, lora):
    edited, expected = edit(editors[lora])
    assert np.abs(edited - expected).max() < 5e-5
    editors[lora].save(tmp_path)
    again, _ = edit(Editor.load(tmp_path))
    np.testing.assert_array_equal(again, edited)
