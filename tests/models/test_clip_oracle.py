"""CLIP's towers against transformers' PyTorch classes, on random weights, in both directions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from rewardedit_jax.models.clip import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import export_tensors, import_tensors
from rewardedit_jax.weights.stable_diffusion import text_table, vision_table

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

WEIGHTS = "model.safetensors"
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


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make_oracle(kind, config):
    """transformers' network with unit-scale weights: those it starts from are small enough to hide a fault."""
    torch.manual_seed(0)
    oracle = kind(config).eval()
    with torch.no_grad():
        for name, p in oracle.named_parameters():
            x = torch.randn_like(p)
            if p.ndim < 2:
                p.copy_(0.1 * x + (not name.endswith("bias")))
            else:
                p.copy_(x if "embeddings." in name and p.ndim == 2 else x / p[0].numel() ** 0.5)
    return oracle


def text_oracle(config, kind=transformers.CLIPTextModel):
    return make_oracle(kind, transformers.CLIPTextConfig(**config.to_hf()))


def vision_oracle(config):
    return make_oracle(transformers.CLIPVisionModelWithProjection, transformers.CLIPVisionConfig(**config.to_hf()))


def read(tensors, module, table):
    wanted = abstract_params(module)
    return import_tensors(tensors, table(module.config), wanted)


def load(directory, kind, config_kind, table):
    """Our network and parameters from a directory that transformers wrote."""
    module = kind(config_kind.from_hf(json.loads((directory / "config.json").read_text())))
    return module, read(load_file(directory / WEIGHTS), module, table)


def load_text(directory):
    return load(directory, CLIPTextModel, CLIPTextConfig, text_table)


def load_vision(directory):
    return load(directory, CLIPVisionModel, CLIPVisionConfig, vision_table)


def save(module, params, table, directory):
    directory.mkdir()
    save_file(export_tensors(params, table(module.config)), directory / WEIGHTS, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(module.config.to_hf()))


def call(module, params, x):
    return jax.jit(lambda params, x: module.apply({"params": params}, x))(params, jnp.asarray(x))


def images(side=20):
    return normal(3, side, side, 3, seed=2)


def nchw(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def assert_same_states(states, expected):
    for name, value in expected.items():
        value = value.detach().numpy()
        assert value.std() > 0.3, name  # unit scale, so that the absolute bound means something
        np.testing.assert_allclose(getattr(states, name), value, atol=2e-5, err_msg=name)


def assert_same_gradients(module, params, x, oracle, expected, table):
    """Gradients of one random linear function of all states, by every parameter."""
    weights = {name: normal(*value.shape, seed=i) for i, (name, value) in enumerate(expected.items())}

    def loss(params):
        states = module.apply({"params": params}, jnp.asarray(x))
        return sum((getattr(states, name) * w).sum() for name, w in weights.items())

    sum((expected[name] * torch.from_numpy(w)).sum() for name, w in weights.items()).backward()
    theirs = {name: p.grad.numpy() for name, p in oracle.named_parameters()}
    theirs = flatten_dict(read(theirs, module, table), sep="/")
    ours = flatten_dict(jax.jit(jax.grad(loss))(params), sep="/")
    whole = np.sqrt(sum((g**2).sum() for g in theirs.values()))
    for path, gradient in ours.items():
        error, norm = np.linalg.norm(gradient - theirs[path]), np.linalg.norm(theirs[path])
        # A bias of all keys alike cancels in the softmax: its gradient is 0 but for rounding, on both sides.
        if path.endswith("k_proj/bias"):
            assert max(norm, np.linalg.norm(gradient)) < 1e-5 * whole, path
        else:
            assert norm > 1e-4 * whole, path
            assert error < 1e-4 * norm, path


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


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)


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


def test_both_towers_of_a_full_clip(tmp_path):
    config = transformers.CLIPConfig(text_config=TEXTS["gelu"].to_hf(), vision_config=VISION.to_hf(), projection_dim=40)
    oracle = make_oracle(transformers.CLIPModel, config)
    oracle.save_pretrained(tmp_path)
    (text, text_params), (vision, vision_params) = load_text(tmp_path), load_vision(tmp_path)
    assert vision.config.projection_dim == 40  # that of the whole, not of the section
    expected = oracle.get_image_features(nchw(images())).pooler_output
    np.testing.assert_allclose(call(vision, vision_params, images()).embedding, expected.detach(), atol=2e-5)
    expected = oracle.text_model(torch.from_numpy(IDS).long()).pooler_output
    np.testing.assert_allclose(call(text, text_params, IDS).pooled, expected.detach(), atol=2e-5)
