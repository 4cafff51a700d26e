"""SmartEdit's networks against transformers' PyTorch classes: tiny ones, and single layers of the published widths."""

import numpy as np
import pytest
from torch_oracles import call, make_oracle, nchw, normal, read

from rewardedit_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionModel
from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.interaction import Interaction, InteractionConfig
from rewardedit_jax.models.llava import Llava, LlavaConfig
from rewardedit_jax.models.qformer import QFormer, QFormerConfig
from rewardedit_jax.weights.clip import vision_table
from rewardedit_jax.weights.smartedit import interaction_table, llava_table, qformer_table

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sam = pytest.importorskip("transformers.models.sam.modeling_sam")

pytestmark = pytest.mark.oracle

LLAMAS = {
    "tiny": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "grouped": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2},
    "7B": {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 1, "num_attention_heads": 32},
}
QFORMERS = {
    "tiny": QFormerConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        layer_norm_eps=1e-5,
        encoder_hidden_size=24,
        num_queries=7,
    ),
    "7B": QFormerConfig(num_hidden_layers=1),
}
INTERACTIONS = {
    "tiny": InteractionConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48),
    "published": InteractionConfig(),
}


def slow_if_large(known):
    """The larger sizes take gigabytes and seconds."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name == "7B" else []) for name in known]


def assert_close(ours, theirs):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def drawn(*shape, seed):
    return normal(*shape, seed=seed) / shape[-1] ** 0.5


@pytest.mark.parametrize("name", slow_if_large(LLAMAS))
def test_a_llama_that_reads_an_image(name):
    """Rows with the image at their start, inside and at their end; the last has padding."""
    published = {"model_type": "llava", "vocab_size": 29, "rms_norm_eps": 1e-5, "rope_theta": 1e4, **LLAMAS[name]}
    oracle = make_oracle(transformers.LlamaModel, transformers.LlamaConfig(**published))
    config = LlavaConfig(text=DecoderConfig.from_hf(published), mm_hidden_size=16)
    width = config.text.hidden_size
    tensors = {f"model.{name}": p.detach().numpy() for name, p in oracle.named_parameters()}
    tensors["model.mm_projector.weight"], bias = drawn(width, 16, seed=2), drawn(width, seed=3)
    tensors |= {"model.mm_projector.bias": bias, "lm_head.weight": drawn(29, width, seed=4)}
    module = Llava(config)
    params = read(tensors, module, llava_table)

    ids, at, lengths = np.random.default_rng(0).integers(0, 29, (3, 9)), np.array([0, 4, 5]), [9, 9, 6]
    features, rows = normal(3, 5, 16, seed=5), []
    projected = features @ tensors["model.mm_projector.weight"].T + bias
    for row, place, image in zip(ids, at, projected, strict=True):
        words = tensors["model.embed_tokens.weight"][row]
        rows.append(np.concatenate([words[:place], image, words[place + 1 :]]))
    mask = np.arange(9) < np.array(lengths)[:, None]
    theirs = [oracle(inputs_embeds=torch.from_numpy(x[None, : n + 4])) for x, n in zip(rows, lengths, strict=True)]
    ours = call(module, params, ids, features, at, mask)
    for hidden, expected, n in zip(ours, theirs, lengths, strict=True):
        assert_close(hidden[: n + 4], expected.last_hidden_state[0])
    logits = module.apply({"params": params}, ours, method="logits")
    assert_close(logits, torch.from_numpy(np.asarray(ours) @ tensors["lm_head.weight"].T))


def test_a_layer_of_the_image_tower():
    """Of the published width, on an image of the published size."""
    layer = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 1}
    config = CLIPVisionConfig(**layer, image_size=224, patch_size=14, projection_dim=None)
    oracle = make_oracle(transformers.CLIPVisionModel, transformers.CLIPVisionConfig(**config.to_hf()))
    module = CLIPVisionModel(config)
    tensors = {name: p.detach().numpy() for name, p in oracle.named_parameters()}
    images = normal(1, 224, 224, 3)
    ours = call(module, read(tensors, module, vision_table), images)
    assert_close(ours.hidden[1], oracle(nchw(images), output_hidden_states=True).hidden_states[1])


@pytest.mark.parametrize("name", QFORMERS)
@pytest.mark.parametrize("masked", [False, True])
def test_qformer(name, masked):
    """Of the published queries and widths, one layer."""
    config = QFORMERS[name]
    theirs = {key: value for key, value in config.to_hf().items() if key not in ("architectures", "model_type")}
    theirs = transformers.Blip2QFormerConfig(**theirs, use_qformer_text_input=False)
    oracle = make_oracle(transformers.Blip2QFormerModel, theirs)
    tensors = {qformer_name(name): p.detach().numpy() for name, p in oracle.named_parameters()}
    tensors["sd_query_tokens"] = normal(1, config.num_queries, config.hidden_size, seed=2)
    module, states = QFormer(config), normal(2, 9, config.encoder_hidden_size, seed=3)
    mask = np.arange(9) % 2 == np.array([[0], [1]]) if masked else None
    queries = torch.from_numpy(tensors["sd_query_tokens"]).expand(2, -1, -1)
    seen = None if mask is None else torch.from_numpy(mask).long()
    expected = oracle(queries, encoder_hidden_states=torch.from_numpy(states), encoder_attention_mask=seen)
    inputs = (states,) if mask is None else (states, mask)
    assert_close(call(module, read(tensors, module, qformer_table), *inputs), expected.last_hidden_state)


def qformer_name(name):
    """A tensor's name in SmartEdit's files."""
    name = name.replace("attention.attention.", "attention.self.")
    return "sd_qformer." + ("embeddings.LayerNorm" + name.removeprefix("layernorm") if name.startswith("lay") else name)


@pytest.mark.parametrize("name", INTERACTIONS)
def test_interaction(name):
    """On the published numbers of queries and image features; torch computes the layers around the transformer."""
    config, side = INTERACTIONS[name], 16
    width, context, channels = config.hidden_size, config.context_size, config.residual_size
    oracle = make_oracle(sam.SamTwoWayTransformer, two_way_config(config))
    tensors = {interaction_name(name): p.detach() for name, p in oracle.named_parameters()}
    for seed, (layer, shape) in enumerate(
        {
            "modulate_head": (width, context),
            "dimension_reduction_head_qformer_out": (context, width),
            "dimension_reduction_head_zeroconv": (channels, width, 1, 1),
        }.items()
    ):
        weight = normal(*shape, seed=seed) / shape[1] ** 0.5
        tensors |= {f"{layer}.weight": torch.from_numpy(weight), f"{layer}.bias": torch.from_numpy(normal(shape[0]))}
    tensors["pe_layer.positional_encoding_gaussian_matrix"] = torch.from_numpy(normal(2, width // 2, seed=4))

    queries, image = normal(2, 77, context, seed=5), normal(2, side, side, width, seed=6)
    places = torch_places(tensors["pe_layer.positional_encoding_gaussian_matrix"], side).expand(2, -1, -1, -1)
    modulated = linear(torch.from_numpy(queries), tensors, "modulate_head")
    read_queries, read_image = oracle(modulated[:, None], nchw(image), places, None)
    difference = linear(read_queries[:, 0], tensors, "dimension_reduction_head_qformer_out")
    grid = read_image[:, 0].transpose(1, 2).unflatten(2, (side, side))
    head = "dimension_reduction_head_zeroconv"
    residual = torch.nn.functional.conv2d(grid, tensors[f"{head}.weight"], tensors[f"{head}.bias"])

    module = Interaction(config)
    params = read({name: x.numpy() for name, x in tensors.items()}, module, interaction_table)
    ours = call(module, params, queries, image.reshape(2, side**2, width))
    assert_close(ours[0], torch.from_numpy(queries) + 0.5 * difference)
    assert_close(ours[1], residual.permute(0, 2, 3, 1))


def two_way_config(config):
    return transformers.SamMaskDecoderConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        mlp_dim=config.intermediate_size,
        attention_downsample_rate=config.attention_downsample_rate,
        layer_norm_eps=config.layer_norm_eps,
        hidden_act="relu",
    )


def interaction_name(name):
    """A tensor's name in SmartEdit's files."""
    return "modulate_transformer." + name.replace("layer_norm_final", "norm_final").replace("layer_norm", "norm")


def linear(x, tensors, layer):
    return torch.nn.functional.linear(x, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"])


def torch_places(matrix, side):
    """[1, c, g, g]: the positions of Segment Anything."""
    at = (torch.arange(side) + 0.5) / side
    cells = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1)
    angles = 2 * torch.pi * ((2 * cells - 1) @ matrix)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)[None]
