"""SmartEdit's networks against numbers of the published PyTorch code, from images and ids to context and residual."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from smartedit_dirs import FIXTURE, description, needs_smartedit, write_pipeline

from rewardedit_jax.models.interaction import fourier_features
from rewardedit_jax.models.llava import splice
from rewardedit_jax.weights.pretrained import load_pretrained

pytestmark = needs_smartedit

# Twice to ten times the distance of the published code to itself in float64, as its README suggests.
TOLERANCES = {
    "pixel_values": 2e-6,
    "clip_features": 4e-5,
    "projected": 4e-5,
    "merged_embeds": 4e-5,
    "last_hidden": 2e-4,
    "image_hidden": 1e-4,
    "next_logits": 1e-4,
    "query_output": 5e-5,
    "f_delta": 5e-5,
    "context": 5e-5,
    "v_grid": 4e-5,
    "v_prime": 4e-5,
    "v_prime_wide": 4e-5,
    "image_pe": 2e-6,
}


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(FIXTURE / "mllm.npz"))


@pytest.fixture(scope="module", params=["merged", "kept"])
def networks(request, tmp_path_factory):
    """Folder → (module, params) of a pipeline whose LoRA is merged or kept."""
    directory = write_pipeline(tmp_path_factory.mktemp("smartedit"), lora=request.param)
    names = ("vision_encoder", "language_model", "qformer", "interaction")
    return {name: load_pretrained(directory / name) for name in names}


@pytest.fixture(scope="module")
def found(networks, expected):
    """The reference's arrays by our networks, each of which reads what ours before it computed."""

    def call(name, *inputs, method=None):
        module, params = networks[name]
        return jax.jit(lambda params, *x: module.apply({"params": params}, *x, method=method))(params, *inputs)

    pixels = prepared([expected[f"source_{i}"] for i in range(4)])
    ids, at = expected["input_ids"], expected["visual_position"]
    llava = networks["language_model"][0]
    features = call("vision_encoder", pixels).hidden[llava.config.mm_vision_select_layer][:, 1:]
    mask = np.arange(ids.shape[1]) < expected["lengths"][:, None]
    hidden = call("language_model", ids, features, at, mask)
    image_hidden = hidden[np.arange(4)[:, None], expected["image_positions"]]
    projected = call("language_model", features, method=lambda module, x: module.mm_projector(x))
    embedded = call("language_model", ids, method=lambda module, x: module.decoder.embed(x))
    queries = call("qformer", image_hidden)
    context, residual = call("interaction", queries, features)
    matrix = networks["interaction"][1]["positional_encoding_gaussian_matrix"]
    resize = partial(jax.image.resize, residual, method="bilinear", antialias=False)
    return {
        "pixel_values": pixels.transpose(0, 3, 1, 2),
        "clip_features": features,
        "projected": projected,
        "merged_embeds": splice(embedded, projected, jnp.asarray(at)),
        "last_hidden": hidden,
        "image_hidden": image_hidden,
        "next_logits": call("language_model", hidden, method="logits"),
        "query_output": queries,
        "f_delta": (context - queries) / 0.5,
        "context": context,
        "v_grid": nchw(residual),
        "v_prime": nchw(resize((4, 8, 8, 32))),
        "v_prime_wide": nchw(resize((4, 8, 12, 32))),
        "image_pe": fourier_features(jnp.asarray(matrix), 2).T.reshape(32, 2, 2),
    }


def nchw(x):
    return x.transpose(0, 3, 1, 2)


def prepared(images):
    """Squashed to a square, and normalised as the tower wants them."""
    settings = description()["json_files"]["openai/clip-vit-large-patch14/preprocessor_config.json"]
    size = (settings["size"],) * 2
    squashed = np.stack([np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC)) for x in images])
    mean, deviation = (np.float32(settings[name]) for name in ("image_mean", "image_std"))
    return (squashed.astype(np.float32) / 255 - mean) / deviation


@pytest.mark.parametrize("name", TOLERANCES)
def test_an_array_of_the_published_code(name, found, expected):
    ours, theirs = np.asarray(found[name]), expected[name]
    if name in ("merged_embeds", "last_hidden"):  # zero at padding there
        ours = np.where(np.arange(ours.shape[1])[:, None] < (expected["lengths"] + 3)[:, None, None], ours, 0)
    if name == "next_logits":
        ours = ours[np.arange(4), prompt_ends(expected)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCES[name])


def prompt_ends(expected):
    """Positions, after splicing, of the ":" of "ASSISTANT:", with which every prompt ends."""
    end = description()["token_cases"][0]["prompt_ids"][-2:]
    windows = np.lib.stride_tricks.sliding_window_view(expected["input_ids"], 2, axis=1)
    rows, starts = np.nonzero((windows == end).all(axis=-1))
    assert rows.tolist() == [0, 1, 2, 3]
    return starts + 1 + 3
