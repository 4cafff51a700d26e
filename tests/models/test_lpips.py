"""LPIPS on random weights: properties of a distance, and what its networks return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.models.lpips import ALEXNET, LPIPS, SQUEEZENET, VGG16, Features
from rewardedit_jax.params import abstract_params, random_params

STACKS = {"alex": ALEXNET, "vgg": VGG16, "squeeze": SQUEEZENET}


def size(params):
    return sum(np.prod(x.shape) for x in jax.tree.leaves(params))


@pytest.mark.parametrize(("name", "count"), [("alex", 2_469_696), ("vgg", 14_714_688), ("squeeze", 722_496)])
def test_features_have_the_published_number_of_parameters(name, count):
    assert size(abstract_params(LPIPS(STACKS[name]))["net"]) == count


@pytest.mark.parametrize("name", STACKS)
def test_the_smallest_image_has_features_in_every_tap(name):
    stack = STACKS[name]
    for side, complete in ((stack.smallest, True), (stack.smallest - 1, False)):
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        outputs, _ = jax.eval_shape(lambda x: Features(stack).init_with_output(jax.random.key(0), x), image)
        assert all(min(x.shape) > 0 for x in outputs) == complete
        assert len(outputs) == len(stack.taps)


@pytest.fixture(scope="module")
def distance():
    module = LPIPS(SQUEEZENET)
    params = random_params(module, jax.random.key(0))
    params |= {name: jax.tree.map(jnp.abs, params[name]) for name in params if name.startswith("lin")}
    return jax.jit(lambda a, b: module.apply({"params": params}, a, b))


def images(seed, count=3, side=24):
    return np.random.default_rng(seed).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def test_it_is_symmetric_and_zero_for_equal_images_only(distance):
    a, b = images(0), images(1)
    np.testing.assert_allclose(distance(a, b), distance(b, a), rtol=1e-6)
    assert (np.asarray(distance(a, b)) > 0).all()
    # The two images of a pair may be computed in another order each: processors differ in the last bit.
    np.testing.assert_allclose(distance(a, a), 0, atol=1e-12)


def test_a_pair_does_not_depend_on_its_batch(distance):
    a, b = images(0), images(1)
    np.testing.assert_allclose(distance(a, b)[1:2], distance(a[1:2], b[1:2]), rtol=1e-5)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="31"):
        LPIPS(ALEXNET).init(jax.random.key(0), *map(jnp.asarray, (images(0, side=30), images(1, side=30))))
