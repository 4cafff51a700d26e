"""`Scorer`: its scores are the network's outputs, whatever the batches, the order and the devices."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_scorers import shapes_scorer, tiny_config, tiny_scorer, two_passes

from rewardedit_jax import EditScore, Scorer
from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.runs import NonFiniteResults
from rewardedit_jax.models.edit_reward import aggregate
from rewardedit_jax.scoring.edit_score import Calibration, Unscorable, matrix
from rewardedit_jax.scoring.inference import Inference
from rewardedit_jax.weights.files import WeightFileError
from rewardedit_jax.weights.pretrained import save_pretrained

SIZES = ((90, 90), (60, 120), (120, 60), (32, 32))
INSTRUCTION = "make it snow"


def picture(seed, size=(90, 90)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


@pytest.fixture(scope="module")
def scorer():
    return shapes_scorer()


@pytest.fixture(scope="module")
def edits():
    """Sources, edits and instructions of several sizes and lengths; two edits share a source."""
    sources = [picture(i, size) for i, size in enumerate(SIZES)]
    sources[1] = sources[0]
    edited = [picture(10 + i, size) for i, size in enumerate(SIZES[::-1])]
    return sources, edited, [INSTRUCTION, "remove the red circle", INSTRUCTION, "add a blue square at the top"]


@pytest.fixture(scope="module")
def scores(scorer, edits):
    return scorer.score(*edits, batch_size=4)


def test_a_score_is_the_networks(scorer, edits, scores):
    for i in (0, 2):
        np.testing.assert_allclose(scores[i].raw, two_passes(scorer, *(column[i] for column in edits)), atol=1e-5)


def test_batches_and_order_change_nothing(scorer, edits, scores):
    backwards = scorer.score(*(column[::-1] for column in edits), batch_size=1)[::-1]
    for a, b in zip(scores, backwards, strict=True):
        np.testing.assert_allclose(a.raw, b.raw, atol=1e-5)


@pytest.mark.parametrize("of", [np.asarray, jnp.asarray])
def test_arrays_are_images(scorer, edits, scores, of):
    batch = of(np.stack([np.asarray(edits[1][0])] * 2))
    found = scorer.score(of(np.asarray(edits[0][0])), batch, [INSTRUCTION, INSTRUCTION], improvement=False)
    for score in found:
        np.testing.assert_allclose(score.raw, scores[0].raw, atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "min", "sum"])
def test_the_overall_score_is_the_aggregate(edits, how):
    (score,) = shapes_scorer(aggregation=how).score(*(column[:1] for column in edits))
    np.testing.assert_allclose(score.raw_overall, aggregate(jnp.asarray(score.raw), how), atol=1e-6)
    assert score.overall.mean == score.raw_overall[0]
    assert score.following.std == pytest.approx(np.exp(score.raw[0, 1]))


def test_one_edit_is_one_score(scorer, edits, scores, tmp_path):
    files = [tmp_path / name for name in ("source.png", "edited.png")]
    for file, column in zip(files, edits, strict=False):
        column[0].save(file)
    score = scorer.score(str(files[0]), files[1], INSTRUCTION)
    assert isinstance(score, EditScore)
    np.testing.assert_allclose(score.raw, scores[0].raw, atol=1e-5)


def test_improvement_is_over_doing_nothing(scorer):
    source, edited = picture(0), picture(1)
    changed, unchanged = scorer.score(source, [edited, source], INSTRUCTION)
    assert unchanged.improvement == pytest.approx(0, abs=1e-5)
    assert changed.improvement == pytest.approx(changed.overall.mean - unchanged.overall.mean, abs=1e-5)
    assert scorer.score(source, edited, INSTRUCTION, improvement=False).improvement is None


def test_it_works_wherever_another_mesh_is_set(scorer, edits, scores):
    with jax.set_mesh(jax.make_mesh((1,), ("x",))):  # of explicit axes
        found = scorer.score(*edits)
    np.testing.assert_allclose([s.raw for s in found], [s.raw for s in scores], atol=1e-5)


def test_preference_is_a_probability(scores):
    a, b = scores[:2]
    assert Scorer.prefer(a, b) + Scorer.prefer(b, a) == pytest.approx(1, abs=1e-6)
    assert (Scorer.prefer(a, b) > 0.5) == (a.overall.mean > b.overall.mean)


def made_up(mean, log_std=0.0):
    return EditScore(raw=np.float32([[mean, log_std]]), raw_overall=np.float32([mean, log_std]))


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    "value",
    [1, None, "a", [made_up(1)], made_up(np.nan), made_up(np.inf), made_up(1, np.nan), made_up(1, 100)],
    ids=str,
)
def test_preferences_are_between_finite_scores(value):
    with pytest.raises(ValueError, match=r"^a"):
        Scorer.prefer(value, made_up(0))
    with pytest.raises(ValueError, match=r"^b"):
        Scorer.prefer(made_up(0), value)
    with pytest.raises(ValueError, match=r"^scores\[1\]"):
        Calibration.of([made_up(0), value], "made up")


def test_scores_have_no_order():
    for compare in (min, max, lambda *scores: sorted(scores), lambda a, b: a <= b, lambda a, b: a >= b):
        with pytest.raises(TypeError, match=r"overall\.mean"):
            compare(made_up(0), made_up(1))


def test_a_score_that_is_not_finite_is_an_error_of_its_edit(scorer, edits, scores, monkeypatch):
    """A NaN in the outputs stands for an overflow; the other edits keep their scores."""
    outputs = Inference.outputs

    def overflowing(self, items):
        raw = outputs(self, items)
        raw[1] = np.nan
        return raw

    monkeypatch.setattr(Inference, "outputs", overflowing)
    with pytest.raises(NonFiniteResults, match=r"edits 1 of 4: .*float32") as caught:
        scorer.score(*edits, batch_size=4, improvement=False)
    found = caught.value.results
    assert [isinstance(score, Unscorable) for score in found] == [False, True, False, False]
    np.testing.assert_allclose(found[2].raw, scores[2].raw, atol=1e-5)
    assert np.isnan(matrix(found)).all(axis=1).tolist() == [False, True, False, False]


def test_a_scorer_of_one_question_tells_no_perspectives(edits):
    scorer = shapes_scorer("single")
    score = scorer.score(*(column[0] for column in edits))
    assert (score.following, score.quality, score.raw.shape) == (None, None, (1, 2))
    means = matrix([score, score])
    np.testing.assert_array_equal(means, np.full((2, 3), score.overall.mean))


def test_calibration_is_the_share_that_is_beaten(scores):
    outputs = np.array([[-1.0, -20.0], [0.0, -20.0], [1.0, -20.0], [2.0, -20.0]], np.float32)
    calibration = Calibration("made up", outputs)
    for mean, share in ((-5, 0), (0.5, 0.5), (1, 0.625), (5, 1)):
        assert calibration.shares(np.array([[mean, -20]], np.float32)) == [pytest.approx(share)]


def test_a_calibrated_scorer_is_saved_and_read(scorer, edits, scores, tmp_path):
    scorer.calibrate(scores, "four random pictures").save(tmp_path)
    again = Scorer.load(tmp_path)
    assert again.calibration.description == "four random pictures"
    assert (again.area, again.system) == (scorer.area, scorer.system)
    found = again.score(*edits)
    for a, b in zip(found, scores, strict=True):
        np.testing.assert_allclose(a.raw, b.raw, atol=1e-5)
    assert [s.calibrated for s in found] == again.calibration.shares(np.stack([s.raw_overall for s in found]))
    assert {s.to_json()["calibration"] for s in found} == {"four random pictures"}
    assert np.mean([s.calibrated for s in found]) == pytest.approx(0.5, abs=1e-3)  # of the reference itself


def test_transparent_parts_are_reported(scorer):
    clear = picture(0).convert("RGBA")
    clear.putalpha(100)
    score = scorer.score(clear, picture(1), INSTRUCTION)
    assert score.composited == ("source",)
    assert score.to_json()["composited"] == ["source"]


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((picture(0), picture(1), "  "), ValueError, "empty"),
        ((picture(0), picture(1), "a <|Reward|> b"), ValueError, "<.Reward.>"),
        ((picture(0, (1, 300)), picture(1), INSTRUCTION), ImageError, "1×300 pixels .*200"),
        (("nowhere.png", picture(1), INSTRUCTION), ImageError, "nowhere.png"),
        ((picture(0), [picture(1), "nowhere.png"], INSTRUCTION), ImageError, "edit 1: .*nowhere.png"),
        (([picture(0)] * 2, [picture(1)] * 3, INSTRUCTION), ValueError, "2, 3, one"),
        ((picture(0), picture(1), None), ValueError, "instruction=None"),
        ((picture(0), picture(1), b"make it snow"), ValueError, "instruction=b"),
        ((picture(0), [picture(1)] * 2, [INSTRUCTION, 5]), ValueError, "edit 1: instruction=5"),
        ((picture(0), picture(1), []), ValueError, "one, one, 0"),
        ((None, picture(1), INSTRUCTION), ImageError, "source: .*None"),
        ((picture(0), 5, INSTRUCTION), ImageError, "edited: .*int"),
        ((picture(0), np.zeros((90, 90, 3)), INSTRUCTION), ImageError, r"edited: float64\[90, 90, 3\]"),
    ],
)
def test_invalid_edits_are_reported(scorer, arguments, error, message):
    with pytest.raises(error, match=message):
        scorer.score(*arguments)


def test_a_base_model_is_no_scorer(scorer, tmp_path):
    module = scorer.module.clone(config=replace(scorer.module.config, heads=None))
    save_pretrained(module, {k: v for k, v in scorer.params.items() if k != "heads"}, tmp_path)
    scorer.tokenizer.base.save_pretrained(tmp_path)
    with pytest.raises(WeightFileError, match="rm_heads"):
        Scorer.load(tmp_path)


def test_missing_tokenizer_files_are_reported(tmp_path):
    save_pretrained(*tiny_scorer(tiny_config()), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks tokenizer.json .* base="):
        Scorer.load(tmp_path)


def test_a_tokenizer_of_another_size_is_reported(scorer, tmp_path):
    save_pretrained(*tiny_scorer(tiny_config()), tmp_path / "model")
    scorer.save(tmp_path / "base")
    with pytest.raises(ValueError, match="embedding rows"):
        Scorer.load(tmp_path / "model", base=tmp_path / "base")


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("batch_size", [2.5, "8", None, 0, True])
def test_a_batch_size_is_a_positive_integer(scorer, edits, batch_size):
    with pytest.raises(ValueError, match=r"^batch_size="):
        scorer.score(*edits, batch_size=batch_size)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("model", {"model": None}),
        ("base", {"model": "shapes_scorer", "base": 5}),
        ("dtype", {"model": "shapes_scorer", "dtype": "fp16"}),
        ("tensor", {"model": "shapes_scorer", "tensor": "2"}),
    ],
)
def test_loading_names_the_argument(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}="):
        Scorer.load(**arguments)


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ({"outputs": [[0, 0]]}, "description"),
        ({"description": "made up", "outputs": []}, "outputs"),
        ({"description": "made up", "outputs": [[0, 0], [1]]}, r"outputs\[1\]"),
        ({"description": "made up", "outputs": [[0, float("nan")]]}, r"outputs\[0\]"),
        ([], "object"),
    ],
)
def test_a_damaged_calibration_is_named(tmp_path, stored, named):
    (tmp_path / "calibration.json").write_text(json.dumps(stored), "utf-8")
    with pytest.raises(ValueError, match=rf"calibration\.json.*{named}"):
        Calibration.read(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "tensor"), [(3, 1), (4, 2)])
def test_devices_share_the_work(scorer, edits, scores, tmp_path, devices, tensor):
    """Three of them divide neither the four edits nor the images evenly; groups of `tensor` share the weights too."""
    scorer.save(tmp_path / "model")
    for kind, column in zip(("source", "edited"), edits, strict=False):
        for i, image in enumerate(column):
            image.save(tmp_path / f"{kind}{i}.png")
    program = (
        "import sys, json, jax; from rewardedit_jax import Scorer;"
        "folder, tensor, instructions = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]);"
        "images = [[f'{folder}/{kind}{i}.png' for i in range(4)] for kind in ('source', 'edited')];"
        "scorer = Scorer.load(f'{folder}/model', tensor=tensor);"
        "kernel = scorer.params['decoder']['layers_0']['mlp']['up_proj']['kernel'];"
        "parts = [jax.device_count(), kernel.shape[1] // kernel.sharding.shard_shape(kernel.shape)[1]];"
        "print(json.dumps([parts, [score.raw.tolist() for score in scorer.score(*images, instructions)]]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(tensor), json.dumps(edits[2])],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
        capture_output=True,
        text=True,
        check=True,
    )
    parts, raw = json.loads(found.stdout)
    assert parts == [devices, tensor]
    np.testing.assert_allclose(raw, [score.raw for score in scores], atol=1e-5)


def test_a_copy_of_the_weights_is_on_devices_that_there_are(scorer, tmp_path):
    scorer.save(tmp_path)
    for tensor in (0, 2):
        with pytest.raises(ValueError, match=f"tensor={tensor}.*devices, 1"):
            Scorer.load(tmp_path, tensor=tensor)
