"""Scores of images on the devices are those of `Scorer.score`, wherever they are computed, and have gradients."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import ROOT
from tiny_scorers import one_prompt, shapes_scorer, tiny_scorer

from rewardedit_jax.scoring.images import PreparedImage, to_patches

SIZE = (56, 84)  # six tokens
INSTRUCTIONS = ["make it snow", "make it snow", "remove the red circle", "add a blue square at the top"]


def shallow_scorer():
    """A layer of each, as compilation takes the time here, and positions that count rows and columns of the images."""
    scorer = shapes_scorer()
    config = scorer.module.config
    text, vision = replace(config.text, num_hidden_layers=1), replace(config.vision, depth=1, fullatt_block_indexes=())
    module, params = tiny_scorer(replace(config, text=text, vision=vision, positions="mrope"))
    return replace(scorer, module=module, params=params)


def noise(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def scorer():
    return shallow_scorer()


@pytest.fixture(scope="module")
def score(scorer):
    """The program of the caller: images and prompts → outputs."""
    program = jax.jit(scorer.score_arrays)
    return lambda *arguments: np.asarray(program(scorer.params, *arguments))


@pytest.fixture(scope="module")
def images():
    """Two sources, and two edits of each."""
    return noise(2, 0), noise(4, 1)


@pytest.fixture(scope="module")
def prompts(scorer):
    return scorer.prompts_for(INSTRUCTIONS, *SIZE)


@pytest.fixture(scope="module")
def expected(scorer, images):
    sources, edited = ([PreparedImage(x, False, x.tobytes()) for x in one] for one in images)
    scores = scorer.score([sources[i // 2] for i in range(4)], edited, INSTRUCTIONS, improvement=False)
    return np.stack([score.raw for score in scores])


def test_they_are_the_scorers(score, images, prompts, expected):
    found = score(*images, prompts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).min() > 1e-3  # edits of one source with one instruction


def test_a_prompt_of_another_size_gives_no_score(scorer, score, images, prompts, expected):
    """In a program, nothing else can tell: its slots lie within the features of the images."""
    slots = prompts.image_slots.copy()
    other = scorer.prompts_for(INSTRUCTIONS[1:2], 56, 56).image_slots[0]
    slots[1, : len(other)] = other
    slots[1, len(other) :] = -1
    found = score(*images, prompts.replace(image_slots=slots))
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(np.delete(found, 1, axis=0), np.delete(expected, 1, axis=0), atol=1e-5)


def test_a_scan_goes_over_edits_and_their_prompts(scorer, images, prompts, expected):
    """Of float images here, one source in each step."""
    sources, edited = (x.astype(np.float32) for x in images)
    pairs = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), (edited, prompts))

    @jax.jit
    def scanned(params, sources, pairs):
        def one(_, of):
            source, (edited, prompts) = of
            return None, scorer.score_arrays(params, source[None], edited, prompts)

        return jax.lax.scan(one, None, (sources, pairs))[1]

    np.testing.assert_allclose(scanned(scorer.params, sources, pairs).reshape(4, 2, 2), expected, atol=1e-5)


def test_gradients_are_those_of_a_pass_per_prompt(scorer, images):
    """In the published layout, with an image per prompt; along one direction also the difference of two scores."""
    sources, edited = (jnp.asarray(x[:1], jnp.float32) for x in images)
    prompts = scorer.prompts_for(INSTRUCTIONS[:1], *SIZE)
    rows = [np.concatenate([prompts.ids[0][prompts.segments[0] == s] for s in (0, head + 1)])[None] for head in (0, 1)]

    def packed(sources, edited):
        return scorer.score_arrays(scorer.params, sources, edited, prompts).sum()

    def alone(sources, edited):
        pixels = to_patches(jnp.concatenate([sources, edited])).reshape(-1, 1176)
        grids = np.array([(1, SIZE[0] // 14, SIZE[1] // 14)] * 2)
        return sum(
            one_prompt(scorer.module, scorer.params, ids, np.ones_like(ids), pixels, grids, head).sum()
            for head, ids in enumerate(rows)
        )

    packed, alone = (jax.jit(jax.value_and_grad(f, argnums=(0, 1))) for f in (packed, alone))
    found, wanted = packed(sources, edited)[1], alone(sources, edited)[1]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    step = jnp.sign(found[1]) / 4
    difference = packed(sources, edited + step)[0] - packed(sources, edited - step)[0]
    assert float(difference) == pytest.approx(2 * float((step * found[1]).sum()), rel=0.02)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("bad", ["sides", "sizes", "counts", "rows"])
def test_shapes_that_do_not_fit_are_named(scorer, images, prompts, bad):
    sources, edited = images
    arguments, message = {
        "sides": ((sources[:, :50], edited[:, :50], prompts), "50×84 pixels.*28"),
        "sizes": ((sources[:, :28], edited, prompts), r"\(2, 28, 84, 3\)"),
        "counts": ((sources, edited[:3], prompts), "3 edits of 2 sources"),
        "rows": ((sources, edited[:2], prompts), "4 rows .* 2 edits"),
    }[bad]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(scorer.score_arrays, scorer.params, *arguments)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("make it snow", 56, 56), "instructions='make it snow'"),
        (([], 56, 56), r"instructions=\[\]"),
        ((["make it snow"], 56, 57), "56×57 pixels"),
        ((["make it snow"], 56.5, 56), "height=56.5"),
        (([" "], 56, 56), "empty"),
    ],
)
def test_prompts_that_cannot_be_are_refused(scorer, arguments, message):
    with pytest.raises(ValueError, match=message):
        scorer.prompts_for(*arguments)


def test_a_scorer_of_one_prompt_packs_one():
    prompts = shapes_scorer("single").prompts_for(INSTRUCTIONS, *SIZE)
    assert prompts.reward_index.shape == (4, 1)
    assert prompts.segments.max() == 0


def outputs_on_a_mesh(sources, edited, instructions):
    """The scores where images and prompts are divided over all devices, and which images a device sends to others."""
    scorer = shallow_scorer()
    prompts = scorer.prompts_for(instructions, *SIZE)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,))
    divided = jax.device_put((sources, edited, prompts), jax.NamedSharding(mesh, jax.P("data")))
    program = jax.jit(scorer.score_arrays).lower(scorer.params, *divided).compile()
    sent = re.findall(r"u8\[.* (?:all|collective)-[\w-]+\(", program.as_text())
    found = program(jax.device_put(scorer.params, jax.NamedSharding(mesh, jax.P())), *divided)
    return {"outputs": found.tolist(), "sent": sent, "parts": len(found.sharding.device_set)}


@pytest.mark.slow
def test_eight_devices_compute_what_one_computes(images, expected):
    """Of 8 sources, which are four times the same two."""
    program = (
        "import json, numpy as np, test_score_arrays as t;"
        "images = [np.tile(x, (4, 1, 1, 1)) for x in (t.noise(2, 0), t.noise(4, 1))];"
        "print(json.dumps(t.outputs_on_a_mesh(*images, 4 * t.INSTRUCTIONS)))"
    )
    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "scoring")]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parts"] == 8
    assert not found["sent"]
    np.testing.assert_allclose(found["outputs"], np.tile(expected, (4, 1, 1)), atol=1e-5)


def test_the_examples_of_the_page_run():
    """Best of four edits by their scores: better, by the oracle's ratings, than the average of the four."""
    page = (ROOT / "docs" / "scoring.md").read_text("utf-8")
    section = page.partition("## Within a program of your own")[2].partition("\n## ")[0]
    names = {}
    for example in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(example, names)
    ratings = np.array([group.ratings for group in names["groups"]]).sum(axis=2)
    best = np.asarray(names["best"])
    assert best.shape == (len(ratings),)
    assert ratings[np.arange(len(best)), best].mean() > ratings.mean() + 0.5
    assert np.abs(names["gradient"]).max() > 0
    assert names["gradient"].shape == names["edited"].shape
