"""The training objective: what is dropped how often, what is learnt, by which parameters."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_editors import tiny_editor, train_batch

from rewardedit_jax.bases.base import Dropout
from rewardedit_jax.bases.instruct_pix2pix import Conditions
from rewardedit_jax.editing import objective
from rewardedit_jax.editing.objective import denoising_loss, editing_loss, precompute

NOTHING_DROPPED = Dropout(conditioning=0.0, reward=0.0)


def loss_of(editor, dropout=NOTHING_DROPPED):
    """params, batch, key → per-example losses."""

    def losses(params, batch, rng):
        return editing_loss(editor.base, params, dropout, precompute(editor.base, params, batch), rng)

    return losses


# Dropout of conditions


def kept_of(editor, n, d):
    keep = editor.base.draw_keep(jax.random.key(0), n, Dropout(conditioning=d, reward=0.0))
    return np.asarray(keep["instruction"]), np.asarray(keep["image"])


def test_each_way_of_dropping_has_its_share(editor):
    n, d = 200_000, 0.05
    text, image = kept_of(editor, n, d)
    shares = [(~text & image).mean(), (text & ~image).mean(), (~text & ~image).mean()]
    # Four standard deviations of a share are 0.2 %.
    np.testing.assert_allclose(shares, d, atol=4 * np.sqrt(d * (1 - d) / n))


def test_without_dropout_everything_is_kept(editor):
    text, image = kept_of(editor, 1000, 0.0)
    assert text.all()
    assert image.all()


@pytest.fixture(scope="module")
def editor():
    return tiny_editor(layout="released")


@pytest.fixture
def told(monkeypatch):
    """The conditions that the network is told, in place of a loss."""
    given = []

    def note(base, params, clean, conditions, timesteps, noise, dropout_rng):
        given.append((clean, conditions, timesteps, noise))
        return jnp.zeros(len(clean))

    monkeypatch.setattr(objective, "denoising_loss", note)
    return given


def test_what_is_dropped_is_the_text_the_source_and_the_reward(editor, told):
    batch = train_batch(editor, 4)
    sent = jax.tree.map(jnp.asarray, batch)
    for dropout in (NOTHING_DROPPED, Dropout(conditioning=1 / 3, reward=1.0)):
        loss_of(editor, dropout)(editor.params, sent, jax.random.key(5))
    (_, kept, _, _), (_, dropped, _, _) = told
    text, image = keep_of(kept, dropped)
    # A third each: every sample misses something.
    assert not (text & image).any()
    assert (~text).any()
    assert (~image).any()
    assert not dropped.image[~image].any()
    empty = editor.base.text_encoder.apply(
        {"params": editor.params["text_encoder"]}, jnp.asarray(batch.inputs.null_ids[:1])
    ).last_hidden
    for context in dropped.context[~text]:
        np.testing.assert_allclose(context, empty[0], atol=1e-5)
    np.testing.assert_array_equal(kept.reward.keep, np.ones(4))
    np.testing.assert_array_equal(dropped.reward.keep, np.zeros(4))
    np.testing.assert_array_equal(kept.reward.scores, batch.inputs.scores)


def keep_of(kept, dropped):
    """Whether the dropped conditions still have (text, image) of the kept ones, for each sample."""
    same = lambda a, b: np.asarray(jnp.abs(a - b).reshape(len(a), -1).max(axis=1) < 1e-5)  # noqa: E731
    return same(kept.context, dropped.context), same(kept.image, dropped.image)


def test_reward_is_dropped_by_its_own_share(editor, told):
    sent = jax.tree.map(jnp.asarray, train_batch(editor, 4))
    for seed in range(20):
        loss_of(editor, Dropout(conditioning=0.0, reward=0.25))(editor.params, sent, jax.random.key(seed))
    keep = np.concatenate([conditions.reward.keep for _, conditions, _, _ in told])
    assert set(keep) == {0.0, 1.0}
    assert abs(keep.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / len(keep))


def test_latents_are_scaled_and_condition_latents_are_not(editor, told):
    batch = jax.tree.map(jnp.asarray, train_batch(editor, 2))
    loss_of(editor)(editor.params, batch, jax.random.key(0))
    loss_of(editor)(editor.params, batch, jax.random.key(1))
    (clean, conditions, timesteps, noise), (other, same, *_) = told
    scaling = editor.base.vae.config.scaling_factor
    edited, source = (
        editor.base.encode(editor.params, 2 * image.astype(jnp.float32) / 255 - 1)
        for image in (batch.edited, batch.source)
    )
    np.testing.assert_allclose(conditions.image, source.mean, atol=1e-5)
    np.testing.assert_allclose(same.image, conditions.image)
    spread = np.abs(clean / scaling - edited.mean) / np.exp(edited.log_var / 2)
    assert 0.5 < np.asarray(spread).mean() < 1.1  # of a normal distribution: 0.8
    assert np.abs(other - clean).max() > 1e-3  # a sample of it, another for another key
    assert 0.8 < noise.std() < 1.2
    assert ((timesteps >= 0) & (timesteps < 1000)).all()


# Loss


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_loss_is_the_squared_error_of_the_target(editor, prediction):
    editor = editor if prediction == "epsilon" else tiny_editor(prediction=prediction, layout="released")
    rng = np.random.default_rng(0)
    clean, condition, noise = (jnp.asarray(rng.standard_normal((2, 8, 8, 4), np.float32)) for _ in range(3))
    context, timesteps = jnp.asarray(rng.standard_normal((2, 32, 16), np.float32)), jnp.asarray([10, 900])
    conditions = Conditions(condition, context, None)
    losses = denoising_loss(editor.base, editor.params, clean, conditions, timesteps, noise)
    alpha_bar = editor.base.process.alphas_cumprod[np.asarray(timesteps)].astype(np.float32)[:, None, None, None]
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    output = editor.base.denoise(editor.params, alpha * clean + sigma * noise, timesteps, conditions)
    target = noise if prediction == "epsilon" else alpha * noise - sigma * clean
    np.testing.assert_allclose(losses, ((output - target) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5)


# Which parameters learn


def gradient_of(editor):
    return lambda params, batch, rng: jax.value_and_grad(lambda p: loss_of(editor)(p, batch, rng).mean())(params)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["released", "paper"])
def test_every_parameter_learns(layout):
    """All but the decoder, which the objective does not see, and key biases, which no attention depends on."""
    editor = tiny_editor(layout=layout)
    loss, grads = jax.jit(gradient_of(editor))(editor.params, train_batch(editor, 2), jax.random.key(0))
    assert np.isfinite(loss)
    unseen = r"vae/(decoder|post_quant_conv)/.*|.*(key|to_k|k_proj)/bias"
    for path, grad in flatten_dict(grads, sep="/").items():
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 1e-9 or re.fullmatch(unseen, path), path
    for end in ("decoder", "post_quant_conv"):
        assert not any(np.any(grad) for grad in jax.tree.leaves(grads["vae"][end])), end


@pytest.mark.parametrize(
    "reward",
    [
        {},
        {"layout": "released", "sources": ("text",)},
        {"layout": "released", "sources": ("scores",), "paths": ("attention",)},
        {"layout": "released", "perspectives": ("quality",)},
        {"layout": "paper", "sources": ("text",), "paths": ("addition",)},
        {"layout": "paper", "sources": ("scores",)},
    ],
    ids=lambda reward: "-".join(map(str, reward.values())) or "plain",
)
def test_ablations_can_be_trained(reward):
    """Traced only: the shapes fit, and every parameter has a gradient."""
    editor = tiny_editor(**reward)
    batch = jax.tree.map(jnp.asarray, train_batch(editor, 2))
    loss, grads = jax.eval_shape(gradient_of(editor), editor.params, batch, jax.random.key(0))
    assert loss.shape == ()
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, editor.params)
