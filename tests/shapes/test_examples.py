"""Examples: determinism, graded faults whose scores follow the severities, feedback that names the fault, files."""

import numpy as np
import pytest

from rewardedit_jax.shapes import (
    EDIT_TYPES,
    ShapesBuilder,
    ShapesSource,
    prepare_shapes,
    shapes_example,
    vocabulary_texts,
)
from rewardedit_jax.shapes.examples import _make_examples
from rewardedit_jax.shapes.faults import Faults, render_faulty
from rewardedit_jax.shapes.oracle import judge_batch
from rewardedit_jax.shapes.render import render, to_uint8
from rewardedit_jax.shapes.scene import COLORS, Edit, Scene, Shape
from rewardedit_jax.shapes.wording import NOTHING_FAILED


@pytest.fixture(scope="module")
def examples():
    return [shapes_example(index, "train") for index in range(1000)]


@pytest.fixture(scope="module")
def scores(examples):
    return np.stack([example.scores for example in examples])


def test_an_example_is_a_function_of_its_index_split_and_seed(examples):
    again, other_seed = shapes_example(3, "train"), shapes_example(3, "train", seed=1)
    for name, value in vars(examples[3]).items():
        np.testing.assert_array_equal(value, getattr(again, name))
    assert other_seed.key != again.key
    assert not np.array_equal(other_seed.source, again.source)
    assert not np.array_equal(shapes_example(3, "test").source, again.source)


def test_pictures_never_change_silently():
    """The shipped weights are trained on these pictures: a change needs new weights and a new builder version."""
    sums = [int(getattr(shapes_example(11, "train"), name).astype(int).sum()) for name in ("source", "ideal", "edited")]
    assert sums == [560824, 559685, 557611]


def test_more_than_half_fail_in_each_perspective(scores):
    assert ((scores < 5).mean(0) > 0.5).all()
    assert set(np.unique(scores)) == set(range(6))


def test_scores_follow_their_own_severity_only(examples, scores):
    severity = np.array([example.severity for example in examples])
    correlation = np.corrcoef(severity.T, scores.T)[:3, 3:]
    assert (np.diag(correlation) > 0.85).all(), correlation
    assert (np.abs(correlation - np.diag(np.diag(correlation))) < 0.15).all(), correlation


def test_feedback_is_given_exactly_where_the_score_is_below_five(examples):
    for example in examples:
        for text, score in zip(example.feedback, example.scores, strict=True):
            assert (text == NOTHING_FAILED) == (score == 5)


def test_texts_are_short_varied_and_in_the_vocabulary(examples):
    words = {word for text in vocabulary_texts() for word in text.split()}
    assert len(words) <= 120
    for example in examples:
        assert len(example.instruction.split()) <= 16
        assert all(len(text.split()) <= 8 for text in example.feedback)
        assert {word for text in (example.instruction, *example.feedback) for word in text.split()} <= words
    for edit_type in EDIT_TYPES:
        assert len({e.instruction.split()[0] for e in examples if e.edit_type == edit_type}) > 1


def test_feedback_names_the_failure(examples):
    missing = next(e for e in examples if e.edit_type == "remove" and "was not removed" in e.feedback[0])
    named = missing.feedback[0].removeprefix("the ").removesuffix(" was not removed")
    assert named in missing.instruction
    assert (missing.edited != missing.source).mean() < 1
    ground = next(e for e in examples if e.feedback[1].startswith("the background turned") and e.severity[1] == 0)
    change = np.abs(ground.edited.astype(int) - ground.source).max(-1)
    assert (change > 20).mean() > 0.4


SCENE = Scene("gray", "even", (Shape("circle", "red", cell=0), Shape("square", "yellow", cell=3)))
RECOLOR = Edit("local", SCENE.shapes[0], "color", "blue")


def scores_of_faults(severities, done=1.0, unrequested=None, shares=(0.0,) * 5, damage=None):
    source, ideal = to_uint8(render(SCENE)), to_uint8(render(RECOLOR.apply(SCENE)))
    done = done if isinstance(done, tuple) else (done,) * 5
    all_faults = [Faults(severities(s), RECOLOR, done[s], unrequested, shares[s], damage) for s in range(5)]
    pictures = [to_uint8(render_faulty(np.random.default_rng(s), SCENE, faults)) for s, faults in enumerate(all_faults)]
    return judge_batch(np.stack(pictures), np.stack([source] * 5), np.stack([ideal] * 5), ["local"] * 5)


@pytest.mark.parametrize("damage", ["blur", "noise", "blocks"])
def test_quality_falls_with_every_grade_of_damage(damage):
    quality = scores_of_faults(lambda s: (5, 5, s), damage=damage)[:, 2]
    assert (np.diff(quality) > 0.2).all(), quality
    assert quality[0] < 1
    assert 3.5 < quality[4] < 4.9


def test_following_falls_with_every_missing_part():
    following = scores_of_faults(lambda s: (s, 5, 5), done=(0.0, 0.2, 0.4, 0.6, 0.8))[:, 0]
    assert (np.diff(following) > 0.7).all(), following
    np.testing.assert_allclose(following, range(5), atol=0.5)


@pytest.mark.parametrize(
    "unrequested",
    [
        Edit("local", SCENE.shapes[1], "color", "purple"),
        Edit("remove", SCENE.shapes[1]),
        Edit("add", Shape("triangle", "green", cell=1)),
        Edit("background", None, "background", "black"),
    ],
    ids=lambda edit: edit.type,
)
def test_preserving_falls_with_every_share_of_an_unrequested_change(unrequested):
    scores = scores_of_faults(lambda s: (5, s, 5), unrequested=unrequested, shares=(1.0, 0.8, 0.6, 0.4, 0.2))
    assert (np.diff(scores[:, 1]) > 0.15).all(), scores
    assert scores[0, 1] < 3
    assert scores[:, 0].min() > 4.4, "following does not look at the rest of the picture"


def test_colors_are_far_apart():
    colors = np.array(list(COLORS.values()))
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 9 * np.eye(len(colors))
    assert distance.min() > 0.6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare_shapes(tmp_path_factory.mktemp("data"), train=20, test=5, seed=3)


@pytest.mark.parametrize(("split", "count"), [("train", 20), ("test", 5)])
def test_what_is_read_is_what_was_made(folder, split, count):
    source = ShapesSource(folder, split)
    assert len(source) == count
    for index in range(count):
        read, made = source[index], shapes_example(index, split, seed=3)
        for name, value in vars(made).items():
            np.testing.assert_array_equal(getattr(read, name), value, err_msg=name)
        assert read.scores.dtype == np.float32


def test_instructions_are_read_without_pictures(folder, monkeypatch):
    expected = [shapes_example(index, "train", seed=3).instruction for index in range(20)]
    source = ShapesSource(folder, "train")
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("a picture was decoded"))
    assert source.instructions() == expected


def test_preparing_again_reuses_and_other_numbers_do_not(folder):
    data_dir = folder.parents[2]
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare_shapes(data_dir, train=20, test=5, seed=3) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    more = prepare_shapes(data_dir, train=21, test=5, seed=3)
    assert more != folder
    assert len(ShapesSource(more, "train")) == 21


def test_an_interrupted_preparation_is_done_again(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rewardedit_jax.shapes.examples.shapes_example", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_shapes(tmp_path, train=4, test=2)
    assert len(ShapesSource(prepare_shapes(tmp_path, train=4, test=2), "train")) == 4


def test_worker_processes_make_the_same_examples_in_order(monkeypatch):
    alone = list(_make_examples(ShapesBuilder.make, "train", 70, 0))
    monkeypatch.setattr("rewardedit_jax.shapes.examples._POOL_THRESHOLD", 0)
    assert [e["key"] for e in alone] == [f"train-0-{index}" for index in range(70)]
    for made, expected in zip(_make_examples(ShapesBuilder.make, "train", 70, 0), alone, strict=True):
        assert made.keys() == expected.keys()
        assert all(np.array_equal(made[name], value) for name, value in expected.items())
