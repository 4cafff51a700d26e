"""The scoring task: its outputs are the scorer's, ties become rows, init is pure, and any step can be computed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from tiny_models import assert_same, get_config

from rewardedit_jax.params import find_rule, split_params
from rewardedit_jax.scoring import initialise
from rewardedit_jax.scoring.pairs import all_images, all_prompts
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.shapes import prepare_shapes_preferences
from rewardedit_jax.shapes.tasks import ShapesScoringTask, shapes_scorer_evaluator
from rewardedit_jax.training.task import Task
from rewardedit_jax.weights.files import TensorFiles


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


def recipe(root, **data):
    config = get_config("edit_reward", "debug")
    config.data.update(root=root, threads=0, **data)
    config.network.text.update(num_hidden_layers=2, hidden_size=32, intermediate_size=48)
    config.network.text.rope_scaling = {"mrope_section": (2, 1, 1)}
    config.network.vision.update(depth=1, hidden_size=32, num_heads=2, out_hidden_size=32, fullatt_block_indexes=(0,))
    return config


@pytest.fixture(scope="module")
def task(root):
    return ShapesScoringTask(recipe(root))


@pytest.fixture(scope="module")
def params(task):
    return task.init(jax.random.key(0))


def test_it_is_a_task(task, params):
    assert isinstance(task, Task)
    assert all(find_rule(task.partition_rules, path) for path in flatten_dict(params, sep="/"))


def test_abstract_parameters_are_those_of_init(task, params):
    abstract = task.abstract_params()
    assert jax.tree.structure(abstract) == jax.tree.structure(params)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(abstract)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(params)
    ]


def test_init_is_pure(task, params):
    assert task.scorer.params == {}
    assert_same(task.init(jax.random.key(0)), params)
    other = task.init(jax.random.key(1))
    assert not np.array_equal(other["reward_token"]["embedding"], params["reward_token"]["embedding"])


@pytest.mark.parametrize("part", ["scorer/heads/.*", "scorer/decoder/embed_tokens/.*", "reward_token/.*"])
def test_init_makes_only_what_is_wanted(task, params, part, monkeypatch):
    monkeypatch.setattr(initialise, "whitening_kernel", lambda *_: pytest.fail("patches were whitened"))
    found = flatten_dict(task.init(jax.random.key(0), lambda path: bool(re.fullmatch(part, path))), sep="/")
    flat = flatten_dict(params, sep="/")
    assert found.keys() == {path for path in flat if re.fullmatch(part, path)}
    for path, value in found.items():
        np.testing.assert_array_equal(value, flat[path], err_msg=path)


def test_a_resumed_run_reads_only_the_wanted_tensors(task, params, root, tmp_path, monkeypatch):
    task.export(params, tmp_path)
    config, read, original = recipe(root), [], TensorFiles.__getitem__
    config.init = str(tmp_path)
    monkeypatch.setattr(TensorFiles, "__getitem__", lambda self, name: read.append(name) or original(self, name))
    found = ShapesScoringTask(config).init(jax.random.key(0), lambda path: path.startswith("scorer/decoder/embed"))
    # The type checker of the tests reads the first tensor of a mapping, which is this one too.
    assert set(read) == {"model.embed_tokens.weight"}
    assert_same(found, {"scorer": {"decoder": {"embed_tokens": params["scorer"]["decoder"]["embed_tokens"]}}})


@pytest.mark.slow
def test_a_batch_gives_the_scorers_numbers(task, params):
    """The images of each pair are at their own tokens: compared with the scorer, which packs edit by edit."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(x + 0.3 * rng.standard_normal(x.shape, np.float32)), params)
    batch = jax.tree.map(jnp.asarray, next(task.batches(0)))
    network, row = {"params": params["scorer"]}, params["reward_token"]["embedding"]
    found = task.scorer.module.apply(network, *all_images(batch), all_prompts(batch), row, method="score")
    found = found.reshape(4, 2, 2, 2)
    scorer = task.with_params(params)
    for i, ratings in enumerate(np.asarray(batch.ratings)):
        # A batch does not say which pairs it has: those with these ratings, in either order.
        pairs = [(p, flip) for p in map(task.source.__getitem__, range(96)) for flip in (1, -1)]
        alike = [(pair, flip) for pair, flip in pairs if _ratings(pair)[::flip] == ratings.tolist()]
        assert min(np.abs(_raw(scorer, pair)[::flip] - found[i]).max() for pair, flip in alike) < 1e-4
    assert found.std(axis=0).min() > 1e-3


def _ratings(pair):
    return [list(pair.ratings_a), list(pair.ratings_b)]


def _raw(scorer, pair):
    source, *edited = map(Image.fromarray, (pair.source, pair.edited_a, pair.edited_b))
    return np.stack([score.raw for score in scorer.score(source, edited, pair.instruction)])


def test_any_step_can_be_had_by_itself(task):
    line = task.batches(0)
    third = [next(line) for _ in range(3)][-1]
    jax.tree.map(np.testing.assert_array_equal, next(task.batches(2)), third)


def test_the_preferred_edit_comes_first(task):
    totals = next(task.batches(0)).ratings.sum(axis=2)
    assert (totals[:, 0] >= totals[:, 1]).all()


@pytest.mark.parametrize(("ties", "per_kind"), [("disentangle", (1, 2, 0)), ("both orders", (1, 2, 2)),
                                                ("strict only", (1, 0, 0)), ("marked", (1, 1, 1))])  # fmt: skip
def test_ties_become_rows(root, ties, per_kind):
    task = ShapesScoringTask(recipe(root, ties=ties))
    kinds = {"strict": 0, "crossing": 0, "full": 0}
    for label in task.source.labels:
        (f_a, q_a), (f_b, q_b) = label.ratings_a, label.ratings_b
        tie = f_a + q_a == f_b + q_b
        kinds["strict" if not tie else "full" if f_a == f_b else "crossing"] += 1
    assert len(task.rows) == sum(n * k for n, k in zip(kinds.values(), per_kind, strict=True))
    assert min(kinds.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uncertainty", "per_perspective", "btt", "reg", "reg_per_perspective"])
def test_losses_and_gradients_are_finite(root, name, params):
    config = recipe(root, ties="marked")
    config.objective.name = name
    task = ShapesScoringTask(config)
    batch = jax.tree.map(jnp.asarray, next(task.batches(0)))
    losses, metrics = task.loss(params, batch, jax.random.key(1))
    assert losses.shape == metrics["accuracy"].shape == (4,)
    grads = jax.grad(lambda p: task.loss(p, batch, jax.random.key(1))[0].mean())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((losses, metrics, grads)))
    assert np.abs(grads["reward_token"]["embedding"]).max() > 0


def test_accuracy_by_perspective(task, params):
    """Computed from the outputs of the scorer; a pair of equal ratings is half right."""
    batch = jax.tree.map(jnp.asarray, next(task.batches(0)))
    _, metrics = task.loss(params, batch, jax.random.key(1))
    inputs = *all_images(batch), all_prompts(batch), params["reward_token"]["embedding"]
    drop = {"dropout": jax.random.split(jax.random.key(1))[0]}
    network = {"params": params["scorer"]}
    outputs = task.scorer.module.apply(network, *inputs, deterministic=False, rngs=drop, method="score")
    means, ratings = np.asarray(outputs)[..., 0].reshape(4, 2, 2), np.asarray(batch.ratings)
    for i, perspective in enumerate(("following", "quality")):
        found = (means[:, 0, i] - means[:, 1, i]) * (ratings[:, 0, i] - ratings[:, 1, i])
        expected = np.where(ratings[:, 0, i] == ratings[:, 1, i], 0.5, found > 0)
        assert metrics[f"accuracy_{perspective}"].shape == (4,)
        np.testing.assert_array_equal(metrics[f"accuracy_{perspective}"], expected)


def test_only_the_reward_tokens_row_trains_in_the_papers_recipe(params):
    trained, frozen = split_params(params, get_config("edit_reward").trainable)
    assert list(flatten_dict(frozen, sep="/")) == ["scorer/decoder/embed_tokens/embedding"]
    assert trained["reward_token"]["embedding"].shape == (32,)


def test_the_trained_row_is_exported(task, params, tmp_path):
    row = jnp.arange(32.0)
    task.export({**params, "reward_token": {"embedding": row}}, tmp_path)
    embedding = Scorer.load(tmp_path).params["decoder"]["embed_tokens"]["embedding"]
    np.testing.assert_array_equal(embedding[-1], row)
    np.testing.assert_array_equal(embedding[:-1], params["scorer"]["decoder"]["embed_tokens"]["embedding"][:-1])


def test_a_scorer_is_trained_further(task, params, root, tmp_path):
    task.export(params, tmp_path)
    config = recipe(root)
    config.init = str(tmp_path)
    further = ShapesScoringTask(config).init(jax.random.key(1))["scorer"]
    jax.tree.map(np.testing.assert_array_equal, further["heads"], params["scorer"]["heads"])


def test_changes_of_the_start_scorer_are_logged(task, params, root, tmp_path, caplog):
    """Other scores make a calibration meaningless, and heads of another kind are drawn anew."""
    scorer = task.with_params(params)
    picture = Image.fromarray(task.source[0].source)
    scorer.calibrate([scorer.score(picture, picture, "make it snow")], "one picture").save(tmp_path)
    config = recipe(root)
    config.update(init=str(tmp_path), positions="mrope")
    config.heads.kind = "shared"
    start = ShapesScoringTask(config).scorer
    assert start.calibration is None
    assert start.module.config.positions == "mrope"
    assert "kind='separate'" in caplog.text
    assert "positions='plain'; the recipe has positions='mrope'" in caplog.text


def test_held_out_pairs_are_score_prompts_in_training(task, params):
    found = shapes_scorer_evaluator(task, count=6)(params, 7)
    assert found.keys() == {"pairs", "calibration_error"}
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.ties": "both"}, "data.ties='both'.*disentangle"),
        ({"objective.name": "rank"}, "objective.name='rank'"),
        ({"objective.name": "bt", "objective.settings.tau": 0.5}, "objective.settings={'tau': 0.5} .*'bt'"),
        ({"objective.name": "per_perspective", "heads.kind": "single"}, "heads.kind"),
        ({"positions": "rope"}, "'rope'"),
        ({"mesh.tensor": 3}, "tensor=3"),
    ],
)
def test_invalid_arguments_are_reported(root, change, message):
    config = recipe(root)
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        ShapesScoringTask(config)


def test_the_data_are_those_of_the_shapes_world(root, task):
    assert len(task.source) == 6 * task.config.data.train
    assert prepare_shapes_preferences(root, task.config.data.train, task.config.data.test).is_dir()


def test_low_rank_differences_train_and_are_saved(root, task, params, tmp_path):
    task.export(params, tmp_path / "start")
    config, published = recipe(root), get_config("edit_reward", "lora")
    config.init, config.lora, config.trainable = str(tmp_path / "start"), published.lora, published.trainable
    config.lora.rank = 2
    adapted = ShapesScoringTask(config)
    tree = adapted.init(jax.random.key(0))
    trained, _ = split_params(tree, adapted.trainable)
    names = {re.sub(r"\d+", "N", path) for path in flatten_dict(trained, sep="/")}
    attention = {f"scorer/decoder/layers_N/self_attn/{p}_proj/lora_{x}" for p in "qkvo" for x in "ab"}
    assert {name for name in names if "heads" not in name} == attention | {"reward_token/embedding"}
    old = flatten_dict(params, sep="/")
    for path, leaf in flatten_dict(tree, sep="/").items():
        if "lora_" not in path:
            np.testing.assert_array_equal(leaf, old[path], err_msg=path)
    adapted.export(tree, tmp_path / "adapted")
    scorer = Scorer.read(tmp_path / "adapted")
    assert scorer.module.lora.rank == 2
    assert scorer.fingerprint != Scorer.read(tmp_path / "start").fingerprint
    config.init = str(tmp_path / "adapted")
    with pytest.raises(ValueError, match="the scorer that training starts from has LoRA"):
        ShapesScoringTask(config)
