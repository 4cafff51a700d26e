"""SmartEdit's Q-Former: masks, dropout, which layers read states (its numbers: the tests with an oracle)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_models import draw, tiny_qformer

from rewardedit_jax.models.qformer import PARTITION_RULES, QFormerConfig
from rewardedit_jax.params import abstract_params, find_rule

MODULE = tiny_qformer(hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.5)
STATES = jax.random.normal(jax.random.key(1), (2, 6, 16))
MASK = jnp.asarray([[1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1]], bool)


@pytest.fixture(scope="module")
def params():
    return draw(MODULE)


def run(params, states=STATES, mask=None, **given):
    return MODULE.apply({"params": params}, states, mask, **given)


def test_masked_states_are_as_good_as_absent(params):
    gathered = jnp.stack([row[seen] for row, seen in zip(STATES, MASK, strict=True)])
    np.testing.assert_allclose(run(params, mask=MASK), run(params, gathered), atol=1e-6)
    assert jnp.abs(run(params, mask=MASK) - run(params)).max() > 1e-2


def test_a_row_without_states_attends_to_all_alike(params):
    """As in the published training, whose loss leaves such rows out; and a row beside it does not notice."""
    found = run(params, mask=MASK.at[0].set(False))
    assert jnp.isfinite(found).all()
    np.testing.assert_array_equal(found[1], run(params, mask=MASK)[1])


def test_every_second_layer_reads_the_states():
    layers = {path.split("/")[0] for path in flatten_dict(abstract_params(MODULE), sep="/") if "crossattention" in path}
    assert layers == {"layers_0", "layers_2"}


def test_dropout_follows_its_rng_and_hits_what_berts_does(params):
    dropped = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            dropped.append((context.module.rate, args[0].ndim))
        return call(*args, **kwargs)

    def train(seed, mask=None):
        return run(params, mask=mask, deterministic=False, rngs={"dropout": jax.random.key(seed)})

    with nn.intercept_methods(watch):
        one = train(0)
    np.testing.assert_array_equal(one, train(0))
    assert jnp.abs(one - train(1)).max() > 1e-2
    assert jnp.abs(one - run(params)).max() > 1e-2
    # Queries; probabilities and output of five attentions; outputs of three feed-forward parts.
    assert sorted(dropped) == [(0.25, 3)] * 9 + [(0.5, 4)] * 5


def test_dropped_attention_has_the_mask_too(params):
    def train(states):
        rngs = {"dropout": jax.random.key(0)}
        return run(params, states, MASK, deterministic=False, rngs=rngs)

    np.testing.assert_array_equal(train(STATES), train(jnp.where(MASK[..., None], STATES, 7.0)))


def test_without_dropout_training_is_evaluation(params):
    """The written-out attention of training and the kernel of evaluation are the same function."""
    without = tiny_qformer(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    found = without.apply({"params": params}, STATES, MASK, False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(found, run(params, mask=MASK), atol=1e-6)


def test_states_of_another_width_are_an_error(params):
    with pytest.raises(ValueError, match="width 11: expected encoder_hidden_size=16"):
        run(params, STATES[..., :11])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu'"), ({"hidden_size": 15}, "hidden_size")],
)
def test_another_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        QFormerConfig.from_hf({**MODULE.config.to_hf(), **change})


def test_every_parameter_has_a_partition_rule():
    for path, leaf in flatten_dict(abstract_params(MODULE), sep="/").items():
        assert len(find_rule(PARTITION_RULES, path)[1]) <= leaf.ndim
