"""The shapes world on disk: a round trip through array_record, and preparing twice."""

import numpy as np
import pytest

from rewardedit_jax.shapes import ShapesBuilder, ShapesSource, builder, prepare_shapes, shapes_example


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
        patch.setattr("rewardedit_jax.shapes.builder.shapes_example", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_shapes(tmp_path, train=4, test=2)
    assert len(ShapesSource(prepare_shapes(tmp_path, train=4, test=2), "train")) == 4


def test_worker_processes_make_the_same_examples_in_order(monkeypatch):
    alone = list(builder._make_examples(ShapesBuilder.make, "train", 70, 0))
    monkeypatch.setattr(builder, "_POOL_THRESHOLD", 0)
    assert [e["key"] for e in alone] == [f"train-0-{index}" for index in range(70)]
    for made, expected in zip(builder._make_examples(ShapesBuilder.make, "train", 70, 0), alone, strict=True):
        assert made.keys() == expected.keys()
        assert all(np.array_equal(made[name], value) for name, value in expected.items())
