"""LLaVA: where the image's features stand, what padding changes, and which parameters there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_models import draw, tiny_llava

from rewardedit_jax.models.llava import PARTITION_RULES, splice
from rewardedit_jax.models.lora import LoRA
from rewardedit_jax.params import abstract_params
from rewardedit_jax.sharding import partition_rule

MODULE = tiny_llava()
IDS = jnp.asarray([[1, 7, 3, 9, 4, 2, 8], [5, 3, 6, 1, 2, 0, 0]])
AT = jnp.asarray([2, 1])
FEATURES = jax.random.normal(jax.random.key(1), (2, 3, 16))


@pytest.fixture(scope="module")
def params():
    return draw(MODULE)


def hidden(params, ids=IDS, features=FEATURES, at=AT, mask=None):
    return jax.jit(MODULE.apply)({"params": params}, ids, features, at, mask)


def test_splice_takes_the_place_of_one_token():
    text, image = jnp.arange(12).reshape(2, 6, 1), -1 - jnp.arange(6).reshape(2, 3, 1)
    expected = [[-1, -2, -3, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, -4, -5, -6]]
    np.testing.assert_array_equal(splice(text, image, jnp.asarray([0, 5]))[..., 0], expected)
    expected = [[0, 1, -1, -2, -3, 3, 4, 5], [6, -4, -5, -6, 8, 9, 10, 11]]
    np.testing.assert_array_equal(splice(text, image, jnp.asarray([2, 1]))[..., 0], expected)


def test_one_feature_replaces_one_token():
    text, image = jnp.arange(6).reshape(2, 3, 1), -jnp.ones((2, 1, 1), int)
    np.testing.assert_array_equal(splice(text, image, jnp.asarray([2, 0]))[..., 0], [[0, 1, -1], [-1, 4, 5]])


def test_the_id_of_the_placeholder_does_not_matter(params):
    other = IDS.at[jnp.arange(2), AT].set(11)
    np.testing.assert_array_equal(hidden(params, other), hidden(params))


def test_features_act_on_what_follows_only(params):
    before, after = hidden(params), hidden(params, features=FEATURES.at[:, 1].add(1.0))
    for row, at in enumerate(AT.tolist()):
        np.testing.assert_array_equal(before[row, : at + 1], after[row, : at + 1])
        assert (jnp.abs(before - after)[row, at + 1 :].max(axis=-1) > 1e-4).all()


def test_padding_changes_nothing_before_it(params):
    mask = jnp.asarray([[1] * 7, [1] * 5 + [0] * 2], bool)
    padded = hidden(params, mask=mask)
    alone = hidden(params, IDS[1:, :5], FEATURES[1:], AT[1:])
    np.testing.assert_allclose(padded[1:, :7], alone, atol=1e-6)
    other = hidden(params, IDS.at[1, 5:].set(17), mask=mask)
    np.testing.assert_array_equal(padded[1, :7], other[1, :7])
    assert jnp.abs(padded - other)[1, 7:].max() > 1e-2  # what stands at padding means nothing


def test_logits_are_the_output_layer_of_the_states(params):
    states = hidden(params)
    logits = MODULE.apply({"params": params}, states, method="logits")
    assert logits.shape == (2, 9, 29)
    np.testing.assert_allclose(logits, states @ params["lm_head"]["kernel"], atol=1e-5)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, alpha=4.0, targets=(r".*_proj",))])
def test_every_parameter_has_a_partition_rule(lora):
    params = flatten_dict(abstract_params(MODULE.clone(lora=lora)), sep="/")
    assert {path.split("/")[0] for path in params} == {"decoder", "mm_projector", "lm_head"}
    for path, leaf in params.items():
        assert len(partition_rule(PARTITION_RULES, path)[1]) <= leaf.ndim
