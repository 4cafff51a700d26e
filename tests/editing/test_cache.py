"""Training from a cache is training without one: the same examples in the same order, and the same losses."""

import itertools
import json
import runpy
from copy import copy
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from tiny_models import assert_same, draw, get_config, tiny_editor

from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.editing import cache_writer, cached_examples
from rewardedit_jax.editing.cache_layout import CacheLayout
from rewardedit_jax.editing.cache_plan import precomputing_params
from rewardedit_jax.editing.cache_writer import write_cache
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.params import abstract_params
from rewardedit_jax.shapes.tasks import ShapesEditingTask
from rewardedit_jax.shapes.tokenizers import shapes_tokenizer
from rewardedit_jax.training.loop import train

EDITS, STEPS = 22, 8
TOLERANCE = {"float32": 1e-6, "bfloat16": 1e-3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an editor of random weights, and a list of edits."""
    folder = tmp_path_factory.mktemp("cache")
    tiny_editor(layout="released").save(folder / "start")
    write_edits(folder)
    return folder


def write_edits(folder, broken=()):
    """Edits of 40×36 pixels, judged; the files of the broken ones are no images."""
    rng, lines = np.random.default_rng(0), []
    for i in range(EDITS):
        names = {"input": f"{i}_input.png", "output": f"{i}_output.png"}
        for name in names.values():
            Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(folder / name)
        if i in broken:
            (folder / names["output"]).write_text("no image")
        reward = {"scores": rng.uniform(0, 5, 3).tolist(), "feedback": [f"fault {i}", "None", "grain"]}
        lines.append(json.dumps({**names, "instruction": f"turn the circle {i} red", **reward}))
    (folder / "list.jsonl").write_text("\n".join(lines))


def recipe(place, cache="", **changes):
    config = get_config("reward_ip2p", "debug")
    config.task, config.init = "editing", str(place / "start")
    config.data.update(name="triplets", root=str(place / "list.jsonl"), flip=True, threads=0, cache=str(cache))
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def caches(place):
    """Caches by the type of their numbers."""
    for dtype in TOLERANCE:
        assert write_cache(EditingTask(recipe(place)), place / dtype, dtype) == []
    return {dtype: place / dtype for dtype in TOLERANCE}


def losses(task, start=0):
    """The losses of the examples of some steps, float32[STEPS, b]."""
    params = task.init(jax.random.key(0))
    step = jax.jit(lambda params, batch, rng: task.loss(params, batch, rng)[0])
    batches = itertools.islice(task.batches(start), STEPS)
    return np.stack([step(params, batch, jax.random.key(start + i)) for i, batch in enumerate(batches)])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_losses_are_those_without_a_cache(place, caches, dtype):
    expected, found = losses(EditingTask(recipe(place))), losses(EditingTask(recipe(place, caches[dtype])))
    np.testing.assert_allclose(found.mean(1), expected.mean(1), rtol=TOLERANCE[dtype])


def test_a_resumed_run_sees_the_batches_that_it_would_have_seen(place, caches):
    task = EditingTask(recipe(place, caches["float32"]))
    whole, rest = (itertools.islice(task.batches(start), 9 - start) for start in (0, 5))
    for expected, batch in zip(itertools.islice(whole, 5, None), rest, strict=True):
        assert_same(batch, expected)


def test_both_views_of_an_example_are_stored(place, caches):
    """The mirror image is not the mirrored result: the autoencoder does not commute with a flip."""
    cache = EditingTask(recipe(place, caches["float32"])).cache
    plain, mirrored = (cache._layout.unpack(cache._records, [cache[3]], [mirror]) for mirror in (False, True))
    assert np.abs(mirrored.source - plain.source).max() > 1e-2
    assert np.abs(mirrored.source - plain.source[:, :, ::-1]).max() > 1e-4
    assert_same(mirrored.request, plain.request)


def test_training_reads_no_frozen_network(place, caches):
    task = EditingTask(recipe(place, caches["float32"]))
    assert set(task.init(jax.random.key(0))) == set(task.abstract_params()) == {"unet"}


@pytest.mark.slow
def test_the_exported_model_is_whole(place, caches, tmp_path):
    config = recipe(place, caches["float32"], steps=2)
    train(EditingTask(config), config, tmp_path / "run")
    editor, start = (Editor.load(folder, dtype="float32") for folder in (tmp_path / "run", place / "start"))
    for name in ("vae", "text_encoder"):
        assert_same(jax.device_get(editor.params[name]), jax.device_get(start.params[name]))


def test_machines_make_the_same_files(place, caches, tmp_path, monkeypatch):
    monkeypatch.setattr(cached_examples, "PER_SHARD", 8)
    task = EditingTask(recipe(place))
    write_cache(task, tmp_path / "alone", "bfloat16")
    assert write_cache(task, tmp_path / "both", "bfloat16", Shard(2, 2)) == []
    with pytest.raises(ValueError, match=r"lacks 2 of 3 shards"):
        EditingTask(recipe(place, tmp_path / "both"))
    assert write_cache(task, tmp_path / "both", "bfloat16", Shard(1, 2)) == []
    assert content(tmp_path / "both") == content(tmp_path / "alone")
    np.testing.assert_array_equal(
        losses(EditingTask(recipe(place, tmp_path / "both"))), losses(EditingTask(recipe(place, caches["bfloat16"])))
    )


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("layout", "size"), [("released", 168_976), ("paper", 285_712), ("", 167_424)])
def test_the_documented_sizes_of_stable_diffusion(layout, size):
    script = runpy.run_path(str(ROOT / "benchmarks" / "full_size_step.py"))
    base = script["full_size_base"](script["full_size_config"]())
    reward = replace(base.unet.config.reward, layout=layout) if layout else None
    tokenizer = copy(shapes_tokenizer())  # other tests share it
    tokenizer.model_max_length = 77  # that of CLIP
    base = replace(base, unet=base.unet.clone(config=replace(base.unet.config, reward=reward)), tokenizer=tokenizer)
    params = {name: abstract_params(getattr(base, name)) for name in base.precomputing}
    found = CacheLayout.of(base, params, 256, flip=True, dtype="bfloat16")
    assert found.views * found.images.nbytes + found.request.nbytes == size
    assert f"{size:,} bytes" in (ROOT / "docs" / "cache.md").read_text("utf-8")


# Bad records


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, place):
    """The same edits with two broken ones, and their cache."""
    folder = tmp_path_factory.mktemp("damaged")
    write_edits(folder, broken=(4, 17))
    bad = write_cache(EditingTask(damaged_recipe(place, folder)), folder / "cache", "float32")
    assert [one.number for one in bad] == [4, 17]
    assert "17_output.png" in bad[1].reason
    return folder


def damaged_recipe(place, folder, **changes):
    return recipe(place, **{"data.root": str(folder / "list.jsonl"), **changes})


def test_bad_records_are_replaced_as_without_a_cache(place, damaged):
    skip = {"data.skip_bad": True}
    expected = losses(EditingTask(damaged_recipe(place, damaged, **skip)))
    found = losses(EditingTask(damaged_recipe(place, damaged, **skip, **{"data.cache": str(damaged / "cache")})))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_bad_record_stops_a_training_that_skips_none(place, damaged):
    task = EditingTask(damaged_recipe(place, damaged, **{"data.cache": str(damaged / "cache")}))
    with pytest.raises(BadRecords, match=r"(4|17)_output\.png"):
        list(itertools.islice(task.batches(0), EDITS))


def test_a_record_without_reward_is_bad(place, tmp_path):
    write_edits(tmp_path)
    lines = (tmp_path / "list.jsonl").read_text().splitlines()
    lines[3] = json.dumps({k: v for k, v in json.loads(lines[3]).items() if k not in ("scores", "feedback")})
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    (bad,) = write_cache(EditingTask(damaged_recipe(place, tmp_path)), tmp_path / "cache", "float32")
    assert bad.number == 3
    assert "lacks scores and feedback" in bad.reason


def test_results_that_are_not_finite_are_bad_records(place, tmp_path, monkeypatch):
    def broken_params(start, seed):
        params = precomputing_params(start, seed)
        params["vae"]["encoder"]["conv_in"]["bias"] = np.full(8, np.nan, np.float32)
        return params

    monkeypatch.setattr(cache_writer, "precomputing_params", broken_params)
    monkeypatch.setattr(cached_examples, "precomputing_params", broken_params)
    bad = write_cache(EditingTask(recipe(place)), tmp_path / "cache", "float32")
    assert len(bad) == EDITS
    assert "NaN or infinity" in bad[0].reason
    with pytest.raises(ValueError, match=rf"has no example: all {EDITS} records"):
        EditingTask(recipe(place, tmp_path / "cache"))


# What is refused


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data.resolution": 64}, r"data\.resolution \(32 there, 64 here\)"),
        ({"data.flip": False}, r"data\.flip \(True there, False here\)"),
        ({"reward.perspectives": ("quality",), "init": "other"}, r"weights of the vae"),
        ({"reward.layout": "", "init": "plain"}, r"array request/reward/scores \('float32\[3\]' there, None here\)"),
        ({"compute.dtype": "bfloat16"}, r"compute\.dtype"),
    ],
)
def test_a_cache_of_another_recipe_is_refused(place, caches, changes, named):
    if not (place / "other").exists():
        other = tiny_editor(layout="released")
        Editor(other.base, {**other.params, "vae": draw(other.base.vae, seed=9)}).save(place / "other")
        tiny_editor().save(place / "plain")
    if "init" in changes:
        changes = {**changes, "init": str(place / changes["init"])}
    with pytest.raises(ValueError, match=named):
        EditingTask(recipe(place, caches["float32"], **changes))


def test_a_cache_of_other_data_is_refused(place, tmp_path):
    write_edits(tmp_path)
    write_cache(EditingTask(damaged_recipe(place, tmp_path)), tmp_path / "cache", "float32")
    cached = damaged_recipe(place, tmp_path, **{"data.cache": str(tmp_path / "cache")})
    EditingTask(cached)
    Image.new("RGB", (9, 9)).save(tmp_path / "2_input.png")
    with pytest.raises(ValueError, match=r"record 2 of the data .* is not the one"):
        EditingTask(cached)
    lines = (tmp_path / "list.jsonl").read_text().splitlines()
    (tmp_path / "list.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(
        ValueError, match=rf"number of records \({EDITS} there, {EDITS - 1} here\); keys of the records"
    ):
        EditingTask(cached)


def test_a_folder_keeps_one_cache(place, caches):
    with pytest.raises(ValueError, match=r"begun with other settings .*data\.resolution: 32 there, 64 now"):
        write_cache(EditingTask(recipe(place, **{"data.resolution": 64})), caches["float32"], "float32")


def test_a_missing_cache_is_named(place, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no cache: make one with launch/cache\.py"):
        EditingTask(recipe(place, tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["vae", "text_encoder"])
def test_a_network_that_trains_cannot_be_cached(place, caches, tmp_path, name):
    rules = ((rf"(unet|{name})/.*", True), (r".*", False))
    with pytest.raises(ValueError, match=rf"which trains the {name}, but a cache holds its results"):
        EditingTask(recipe(place, caches["float32"], trainable=rules))
    with pytest.raises(ValueError, match=rf"which trains the {name}"):
        write_cache(EditingTask(recipe(place, trainable=rules)), tmp_path, "float32")


def test_a_loss_on_tokens_has_no_cache(place, caches):
    config = recipe(place, caches["float32"])
    config.task, config.words_weight = "shapes_editing", 0.1
    with pytest.raises(ValueError, match=r"words_weight=0\.1: expected 0 with data\.cache"):
        ShapesEditingTask(config)
