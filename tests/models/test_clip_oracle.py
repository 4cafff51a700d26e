"""CLIP and its towers against transformers' PyTorch classes, on random weights, in both directions."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch_oracles import (
    WEIGHTS,
    assert_same_gradients,
    assert_same_states,
    assert_same_tensors,
    call,
    load,
    make_oracle,
    nchw,
    normal,
    save,
)

from rewardedit_jax.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel
from rewardedit_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionModel
from rewardedit_jax.weights.clip import clip_table, text_table, vision_table
from rewardedit_jax.weights.engine import export_tensors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SMALL, "vocab_size": 50, "max_position_embeddings": 11, "pad_token_id": 1, "bos_token_id": 48}
TEXTS = {
    "quick gelu": CLIPTextConfig(**TEXT, eos_token_id=49, projection_dim=24),
    "gelu": CLIPTextConfig(**TEXT, eos_token_id=49, projection_dim=24, hidden_act="gelu", layer_norm_eps=1e-3),
    "older end of text": CLIPTextConfig(**TEXT, eos_token_id=2, projection_dim=24),
}
VISION = CLIPVisionConfig(**SMALL, image_size=20, patch_size=4, projection_dim=24)
VISIONS = {"quick gelu": VISION, "gelu": CLIPVisionConfig(**SMALL, image_size=20, patch_size=10, hidden_act="gelu")}
IDS = np.array(
    [
        [48, 7, 9, 3, 49, 1, 1, 1, 1, 1, 1],
        [48, 5, 49, 49, 49, 49, 49, 49, 49, 49, 49],
        [48, 4, 8, 2, 15, 16, 23, 42, 6, 11, 49],
    ],
    np.int32,
)


def text_oracle(config, kind=transformers.CLIPTextModel):
    return make_oracle(kind, transformers.CLIPTextConfig(**config.to_hf()))


def vision_oracle(config):
    return make_oracle(transformers.CLIPVisionModelWithProjection, transformers.CLIPVisionConfig(**config.to_hf()))


def load_text(directory):
    return load(directory, CLIPTextModel, CLIPTextConfig, text_table)


def load_vision(directory):
    return load(directory, CLIPVisionModel, CLIPVisionConfig, vision_table)


def images(side=20):
    return normal(3, side, side, 3, seed=2)


@pytest.mark.parametrize("name", TEXTS)
def test_text_tower(name, tmp_path):
    oracle = text_oracle(TEXTS[name])
    oracle.save_pretrained(tmp_path)
    module, params = load_text(tmp_path)
    assert module.config == TEXTS[name]
    out = oracle(torch.from_numpy(IDS).long())
    expected = {"last_hidden": out.last_hidden_state, "pooled": out.pooler_output}
    assert_same_states(call(module, params, IDS), expected)
    assert_same_gradients(module, params, IDS, oracle, expected, text_table)


@pytest.mark.parametrize("name", VISIONS)
def test_vision_tower(name, tmp_path):
    oracle = vision_oracle(VISIONS[name])
    oracle.save_pretrained(tmp_path)
    module, params = load_vision(tmp_path)
    assert module.config == VISIONS[name]
    hidden = oracle.vision_model(nchw(images()))
    expected = {
        "last_hidden": hidden.last_hidden_state,
        "pooled": hidden.pooler_output,
        "embedding": oracle.visual_projection(hidden.pooler_output),
    }
    assert_same_states(call(module, params, images()), expected)
    np.testing.assert_array_equal(oracle(nchw(images())).image_embeds.detach(), expected["embedding"].detach())
    assert_same_gradients(module, params, images(), oracle, expected, vision_table)


def test_text_tower_is_written_as_it_was_read(tmp_path):
    text_oracle(TEXTS["gelu"]).save_pretrained(tmp_path)
    module, params = load_text(tmp_path)
    # Version 5 writes this tower's names without the prefix that version 4 wants; it reads them with it as well.
    theirs = {f"text_model.{name}": tensor for name, tensor in load_file(tmp_path / WEIGHTS).items()}
    assert_same_tensors(export_tensors(params, text_table(module.config)), theirs)


def test_vision_tower_is_written_as_it_was_read(tmp_path):
    vision_oracle(VISION).save_pretrained(tmp_path)
    module, params = load_vision(tmp_path)
    assert_same_tensors(export_tensors(params, vision_table(module.config)), load_file(tmp_path / WEIGHTS))


@pytest.mark.parametrize("name", TEXTS)
def test_transformers_reads_the_text_tower_we_write(name, tmp_path):
    oracle = text_oracle(TEXTS[name])
    oracle.save_pretrained(tmp_path / "theirs")
    save(*load_text(tmp_path / "theirs"), text_table, tmp_path / "ours")
    again, report = transformers.CLIPTextModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    ids = torch.from_numpy(IDS).long()
    torch.testing.assert_close(again(ids).pooler_output, oracle(ids).pooler_output, rtol=0, atol=0)


def test_transformers_reads_the_vision_tower_we_write(tmp_path):
    oracle = vision_oracle(VISION)
    oracle.save_pretrained(tmp_path / "theirs")
    save(*load_vision(tmp_path / "theirs"), vision_table, tmp_path / "ours")
    kind = transformers.CLIPVisionModelWithProjection
    again, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    x = nchw(images())
    torch.testing.assert_close(again(x).image_embeds, oracle(x).image_embeds, rtol=0, atol=0)


def test_text_tower_of_a_file_with_projection(tmp_path):
    oracle = text_oracle(TEXTS["gelu"], transformers.CLIPTextModelWithProjection)
    oracle.save_pretrained(tmp_path)
    assert "text_projection.weight" in load_file(tmp_path / WEIGHTS)
    states = call(*load_text(tmp_path), IDS)
    expected = oracle.text_model(torch.from_numpy(IDS).long()).pooler_output
    np.testing.assert_allclose(states.pooled, expected.detach(), atol=2e-5)


@pytest.fixture(scope="module")
def whole_clip(tmp_path_factory):
    """transformers' whole model, and the directory that it is saved in."""
    config = transformers.CLIPConfig(text_config=TEXTS["gelu"].to_hf(), vision_config=VISION.to_hf(), projection_dim=40)
    oracle = make_oracle(transformers.CLIPModel, config)
    directory = tmp_path_factory.mktemp("clip")
    oracle.save_pretrained(directory)
    return oracle, directory


def test_both_towers_of_a_full_clip(whole_clip):
    oracle, directory = whole_clip
    (text, text_params), (vision, vision_params) = load_text(directory), load_vision(directory)
    assert vision.config.projection_dim == 40  # that of the whole, not of the section
    expected = oracle.get_image_features(nchw(images())).pooler_output
    np.testing.assert_allclose(call(vision, vision_params, images()).embedding, expected.detach(), atol=2e-5)
    expected = oracle.text_model(torch.from_numpy(IDS).long()).pooler_output
    np.testing.assert_allclose(call(text, text_params, IDS).pooled, expected.detach(), atol=2e-5)


def test_whole_clip(whole_clip):
    oracle, directory = whole_clip
    module, params = load(directory, CLIPModel, CLIPConfig, clip_table)
    image, text = call(module, params, images(), IDS)
    expected = oracle.get_image_features(nchw(images())).pooler_output.detach()
    np.testing.assert_allclose(image, expected, atol=1e-5 * expected.abs().max())
    expected = oracle.get_text_features(torch.from_numpy(IDS).long()).pooler_output.detach()
    np.testing.assert_allclose(text, expected, atol=1e-5 * expected.abs().max())


def test_whole_clip_is_written_as_it_was_read(whole_clip):
    tensors = load_file(whole_clip[1] / WEIGHTS)
    module, params = load(whole_clip[1], CLIPModel, CLIPConfig, clip_table)
    del tensors["logit_scale"]
    assert_same_tensors(export_tensors(params, clip_table(module.config)), tensors)


def test_transformers_reads_the_whole_clip_we_write(whole_clip, tmp_path):
    oracle, directory = whole_clip
    save(*load(directory, CLIPModel, CLIPConfig, clip_table), clip_table, tmp_path / "ours")
    again, report = transformers.CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert report.pop("missing_keys") == {"logit_scale"}  # the temperature of the contrastive loss
    assert not any(report.values()), report
    ours, theirs = (model.get_image_features(nchw(images())).pooler_output for model in (again, oracle))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", VISIONS)
def test_states_of_every_layer(name, tmp_path):
    """Of a tower without projection, as LLaVA and SmartEdit read its last layer but one."""
    config = replace(VISIONS[name], projection_dim=None, num_hidden_layers=3)
    oracle = make_oracle(transformers.CLIPVisionModel, transformers.CLIPVisionConfig(**config.to_hf()))
    oracle.save_pretrained(tmp_path)
    module, params = load_vision(tmp_path)
    assert module.config == config
    states = call(module, params, images())
    assert states.embedding is None
    expected = oracle(nchw(images()), output_hidden_states=True)
    assert len(states.hidden) == len(expected.hidden_states) == 4
    for ours, theirs in zip(states.hidden, expected.hidden_states, strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), atol=1e-5 * theirs.detach().abs().max())
    theirs = {f"vision_model.{name}": tensor for name, tensor in load_file(tmp_path / WEIGHTS).items()}
    assert_same_tensors(export_tensors(params, vision_table(module.config)), theirs)
