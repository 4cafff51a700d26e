"""Qwen2.5-VL beside transformers' own classes: images of mixed shapes, positions of its authors, both layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from rewardedit_jax.models.decoder import Decoder, DecoderConfig, causal_mask
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig
from rewardedit_jax.models.qwen2_5_vl import Qwen2_5VL, Qwen2_5VLConfig
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import export_tensors, import_tensors
from rewardedit_jax.weights.pretrained import save_pretrained
from rewardedit_jax.weights.qwen2_5_vl import edit_reward_table

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

IMAGE, TOKENS = 90, 100  # the reward token is the last of them
GRIDS = np.array([[1, 10, 14], [1, 4, 6], [1, 12, 8], [1, 18, 2]])
# Widths of heads that transformers' rotary sections divide.
TEXT = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]},
    "bos_token_id": None,
    "eos_token_id": None,
}
VISION = {
    "depth": 3,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 24,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
    "window_size": 112,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    config = transformers.Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, image_token_id=IMAGE)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():  # scores that depend on everything: the usual start is nearly blind
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.1 if parameter.ndim == 1 else 0.25)
    return model


@pytest.fixture(scope="module")
def ours(theirs):
    return read(theirs)


def read(model):
    """(module, params) without heads, from transformers' state dict."""
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    shapes = {name: x.shape for name, x in tensors.items()}
    config = EditRewardConfig.from_hf(model.config.to_dict(), shapes)
    module = EditReward(config)
    return module, import_tensors(tensors, edit_reward_table(config), abstract_params(module))


@pytest.fixture(scope="module")
def inputs():
    """Two rows of two images each; the second is shorter. The reward token is each row's last."""
    rng = np.random.default_rng(0)
    counts = GRIDS.prod(axis=1) // 4
    rows = []
    for images in (counts[:2], counts[2:]):
        row = list(rng.integers(0, 80, 3))
        for count in images:
            row += [IMAGE] * count + list(rng.integers(0, 80, 4))
        rows.append([*row, TOKENS - 1])
    length = max(map(len, rows))
    ids, mask = (np.zeros((2, length), np.int64) for _ in range(2))
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    pixels = rng.standard_normal((GRIDS.prod(axis=1).sum(), 1176)).astype(np.float32)
    return ids, mask, pixels


def their_states(model, ids, mask, pixels, **positions):
    """States at the reward tokens."""
    return their_hidden(model, ids, mask, pixels, **positions)[np.arange(2), (ids == TOKENS - 1).argmax(1)]


def their_hidden(model, ids, mask, pixels, **positions):
    """States of all tokens."""
    found = model.model(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        pixel_values=torch.tensor(pixels),
        image_grid_thw=torch.tensor(GRIDS),
        mm_token_type_ids=torch.tensor(ids == IMAGE, dtype=torch.int32),
        **positions,
    )
    return found.last_hidden_state


def their_features(model, pixels):
    """Of all images in order."""
    told = model.model.visual(torch.tensor(pixels), grid_thw=torch.tensor(GRIDS))
    return getattr(told, "pooler_output", told)


def our_states(module, params, ids, mask, pixels):
    return module.apply({"params": params}, jnp.asarray(ids), jnp.asarray(mask), jnp.asarray(pixels), GRIDS)


def test_states_with_the_positions_of_its_authors(theirs, ours, inputs):
    assert ours[0].config.positions == "mrope"
    with torch.no_grad():
        expected = their_states(theirs, *inputs).numpy()
    found = our_states(*ours, *inputs)
    assert expected.std() > 0.5
    np.testing.assert_allclose(found.hidden, expected, atol=2e-4)


def test_hidden_states_of_the_base_model(theirs, ours, inputs):
    """`Qwen2_5VL` as Hugging Face feeds it, at all tokens except padding."""
    shapes = {name: x.shape for name, x in theirs.state_dict().items()}
    module = Qwen2_5VL(Qwen2_5VLConfig.from_hf(theirs.config.to_dict(), shapes))
    with torch.no_grad():
        expected = their_hidden(theirs, *inputs).numpy()
    found = our_states(module, ours[1], *inputs)
    real = inputs[1] > 0
    np.testing.assert_allclose(found.hidden[real], expected[real], atol=2e-4)


@pytest.mark.slow
def test_a_layer_of_each_kind_at_the_widths_of_7b(inputs):
    """A windowed and a full block of the vision tower, merger and one decoder layer: 0.3 billion numbers.

    With pytest's -s it tells the largest differences.
    """
    sizes = {"hidden_size": 3584, "intermediate_size": 18_944, "num_attention_heads": 28, "num_key_value_heads": 4}
    rope = {**TEXT["rope_parameters"], "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = {**TEXT, **sizes, "num_hidden_layers": 1, "rope_parameters": rope}
    vision = {"hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 3584, "depth": 2}
    torch.manual_seed(0)
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config={**VISION, **vision}, image_token_id=IMAGE)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        expected = {"hidden": their_states(model, *inputs), "image_features": their_features(model, inputs[2])}
    found = our_states(*read(model), *inputs)
    for name, theirs in expected.items():
        ours = np.asarray(getattr(found, name))
        print(f"{name}: largest difference {np.abs(ours - theirs.numpy()).max():.1e}")
        assert 0.5 < theirs.std() < 2
        np.testing.assert_allclose(ours, theirs, atol=2e-4, err_msg=name)


def test_image_features(theirs, ours, inputs):
    with torch.no_grad():
        expected = their_features(theirs, inputs[2])
    np.testing.assert_allclose(our_states(*ours, *inputs).image_features, expected.numpy(), atol=2e-4)


def test_states_with_plain_positions(theirs, ours, inputs):
    mask = inputs[1]
    plain = np.where(mask, mask.cumsum(1) - 1, 1)
    with torch.no_grad():
        expected = their_states(theirs, *inputs, position_ids=torch.tensor(np.stack([plain] * 3))).numpy()
        other = their_states(theirs, *inputs).numpy()
    module = EditReward(EditRewardConfig(**{**vars(ours[0].config), "positions": "plain"}))
    found = our_states(module, ours[1], *inputs)
    assert np.abs(expected - other).max() > 1e-2
    np.testing.assert_allclose(found.hidden, expected, atol=2e-4)


def test_gradients(theirs, ours, inputs):
    module, params = ours
    weights = np.random.default_rng(1).standard_normal((2, 32)).astype(np.float32)
    theirs.zero_grad()
    (their_states(theirs, *inputs) * torch.tensor(weights)).sum().backward()
    tensors = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    expected = flatten_dict(import_tensors(tensors, edit_reward_table(module.config), abstract_params(module)), sep="/")
    grads = jax.grad(lambda p: (our_states(module, p, *inputs).hidden * weights).sum())(params)
    for path, found in flatten_dict(grads, sep="/").items():
        error = np.linalg.norm(found - expected[path]) / (np.linalg.norm(expected[path]) + 1e-6)
        assert error < 1e-3, path


def test_both_layouts_of_names_are_read(ours, theirs):
    module, params = ours
    table = edit_reward_table(module.config)
    legacy = export_tensors(params, table)
    assert "visual.patch_embed.proj.weight" in legacy
    assert "model.language_model.norm.weight" in theirs.state_dict()
    again = import_tensors(legacy, table, abstract_params(module))
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_transformers_reads_what_we_write(theirs, ours, inputs, tmp_path):
    save_pretrained(*ours, tmp_path)
    model, told = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not {*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]}
    with torch.no_grad():
        expected, found = (their_states(m.eval(), *inputs).numpy() for m in (theirs, model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_plain_llama_is_the_same_module(tmp_path):
    torch.manual_seed(0)
    sizes = {name: TEXT[name] for name in TEXT if name not in ("rope_parameters", "bos_token_id", "eos_token_id")}
    model = transformers.LlamaModel(transformers.LlamaConfig(**sizes, rms_norm_eps=1e-5)).eval()
    config = DecoderConfig.from_hf(model.config.to_dict())
    assert (config.qkv_bias, config.mrope_section, config.rms_norm_eps) == (False, None, 1e-5)
    tensors = {f"model.{name}": x.numpy() for name, x in model.state_dict().items()}
    rules = edit_reward_table(EditRewardConfig(heads=None))
    ids = np.random.default_rng(0).integers(0, TOKENS, (2, 9))
    module = Decoder(config)
    x = tensors["model.embed_tokens.weight"][ids]
    positions = jnp.broadcast_to(jnp.arange(9), (2, 9))
    arguments = jnp.asarray(x), positions, causal_mask(jnp.zeros((2, 9), jnp.int32))
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))["params"]
    wanted = {"decoder": {**abstract, "embed_tokens": {"embedding": jax.ShapeDtypeStruct((TOKENS, 32), np.float32)}}}
    params = import_tensors(tensors, rules, wanted)["decoder"]
    found = module.apply(
        {"params": {name: tree for name, tree in params.items() if name != "embed_tokens"}}, *arguments
    )
    with torch.no_grad():
        expected = model(torch.tensor(ids)).last_hidden_state.numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)
