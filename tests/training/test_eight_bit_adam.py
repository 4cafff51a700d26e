"""Adam with moments of 8 bits: what it keeps, its error, that it learns as AdamW does, and that it can be resumed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_task import toy_config

from rewardedit_jax.sharding import AXES, infer_shardings
from rewardedit_jax.training.eight_bit_adam import BLOCK, decode, encode, scale_by_eight_bit_adam
from rewardedit_jax.training.optimizer import make_optimizer

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((256, 24)).astype(np.float32) * np.geomspace(0.1, 3, 24, dtype=np.float32)
WANTED = np.tanh(FEATURES @ RNG.standard_normal((24, 4)).astype(np.float32) / 5)
STEPS = 150


def network():
    rng = np.random.default_rng(1)
    sizes = {"first": (24, 32), "last": (32, 4)}
    return {name: {"kernel": rng.standard_normal(size).astype(np.float32) / 5} for name, size in sizes.items()}


def loss(params):
    hidden = jnp.tanh(FEATURES @ params["first"]["kernel"])
    return jnp.mean((hidden @ params["last"]["kernel"] - WANTED) ** 2)


def train(state, steps, optimizer):
    """(params, optimizer state, loss) after some more steps."""

    def step(state, _):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    return jax.jit(lambda state: jax.lax.scan(step, state, length=steps)[0])(state)


@pytest.fixture(scope="module")
def optimizer():
    config = toy_config(**{"optimizer.learning_rate": 3e-3, "optimizer.eight_bit": True, "optimizer.b2": 0.999})
    return make_optimizer(config.optimizer, STEPS)


def test_it_learns_as_adamw_does(optimizer):
    exact = make_optimizer(toy_config(**{"optimizer.learning_rate": 3e-3, "optimizer.b2": 0.999}).optimizer, STEPS)
    found = [float(loss(train((network(), o.init(network())), STEPS, o)[0])) for o in (optimizer, exact)]
    start = float(loss(network()))
    assert found[1] < 0.2 * start
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_a_resumed_run_is_the_same(optimizer):
    half = train((network(), optimizer.init(network())), 20, optimizer)
    through_files = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), half)
    whole = train((network(), optimizer.init(network())), 40, optimizer)
    for a, b in zip(jax.tree.leaves(train(through_files, 20, optimizer)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_it_keeps_a_byte_for_each_moment():
    params = {"layer": {"kernel": jnp.zeros((512, 512))}}
    state = scale_by_eight_bit_adam(0.9, 0.999, 1e-8).init(params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert size == 2 * 512**2 * (1 + 4 / BLOCK) + 4
    # Codes lie where their parameter does, scales on every device.
    mesh = jax.sharding.AbstractMesh((1, 2, 2), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    rules = ((r"layer/kernel", jax.sharding.PartitionSpec("fsdp", "tensor")),)
    found = infer_shardings(state, rules, mesh)
    assert found.nu["layer"]["kernel"].spec == rules[0][1]
    assert found.nu_scales[0].spec == jax.sharding.PartitionSpec()


@pytest.mark.parametrize("shape", [(), (3,), (7, 300)])
def test_what_is_stored_is_near_and_right_in_the_mean(shape):
    x = jnp.asarray(np.random.default_rng(2).standard_normal(shape) * np.float32(1e-6))
    stored = jax.vmap(lambda key: decode(*encode(x, key)))(jax.random.split(jax.random.key(0), 400))
    largest = np.abs(x).max()
    assert (np.abs(stored - x) <= np.abs(x) / 8 + 2**-18 * largest).all()
    np.testing.assert_allclose(stored.mean(0), x, atol=0.03 * largest)  # of 400: an eighth / √400, with room


def test_zeros_stay_zeros_and_roots_never_vanish():
    codes, scales = encode(jnp.zeros(5), jax.random.key(0), least=2.0**-18)
    np.testing.assert_array_equal(decode(codes, scales), np.zeros(5))
    x = jnp.array([1.0, 1e-9])
    assert decode(*encode(x, jax.random.key(0), least=2.0**-18))[1] > 0
    assert decode(*encode(x, jax.random.key(0)))[1] == 0


def test_the_first_step_is_adams(optimizer):
    grads = jax.grad(loss)(network())
    updates, _ = scale_by_eight_bit_adam(0.9, 0.999, 1e-8).update(grads, optimizer.init(network())[-1][0])
    for found in jax.tree.leaves(updates):  # the sign of the gradient
        np.testing.assert_allclose(np.abs(found), 1, rtol=1e-3)
