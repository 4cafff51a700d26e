"""Replies that LLaVA chooses itself, token by token, with the keys and values of earlier tokens kept.

Axes: b rows, l token ids, v image features, c their width, s = l - 1 + v tokens with the image, d width of the decoder.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from rewardedit_jax.models.llava import Llava
from rewardedit_jax.params import Params

GREEDY = 1e-4  # below this temperature the likeliest token is taken, as in SmartEdit's code


class _Progress(NamedTuple):
    """Rows while the reply is chosen."""

    step: Int[Array, ""]  # tokens of the reply so far
    ids: Int[Array, "b l"]
    last: Float[Array, "b 1 d"]  # state of the last token, from which the next one is chosen
    cache: PyTree  # keys and values of s tokens


def sample_replies(
    model: Llava,
    params: Params,
    ids: Int[Array, "b l"],
    features: Float[Array, "b v c"],
    image_at: Int[Array, " b"],
    reply_from: Int[Array, " b"],
    end: int | Int[Array, ""],
    seeds: UInt32[Array, " b"],
    temperature: Float[Array, ""],
) -> Int[Array, "b l"]:
    """The rows with replies of the model's own, each until its end token or the end of the row.

    A row is a function of its prompt and its seed alone. What stands behind its end token means nothing.

    Args:
      ids, features, image_at: as of `Llava`; what is in `ids` from the reply on is not read.
      reply_from: index in `ids` of the reply's first token.
      end: id of the end token.
      temperature: what logits are divided by before a token is drawn.
    """
    rows, text = jnp.arange(len(ids)), jnp.arange(ids.shape[1])
    moved = features.shape[1] - 1  # tokens behind the image move by this
    is_reply = text >= reply_from[:, None]
    prompts = jnp.where(is_reply, 0, ids)
    hidden, cache = model.apply({"params": params}, prompts, features, image_at, mutable=["cache"])

    def add_token(progress: _Progress) -> _Progress:
        logits = model.apply({"params": params}, progress.last, method="logits")
        tokens, at = _choose(logits[:, 0], seeds, progress.step, temperature), reply_from + progress.step
        written = progress.ids.at[rows, at].set(tokens)  # beyond the end of a row, JAX drops what is written
        place, read = (at + moved)[:, None], {"params": params, **progress.cache}
        seen = jnp.arange(hidden.shape[1]) <= place
        states, cache = model.apply(read, tokens[:, None], place, seen, method=_read_on, mutable=["cache"])
        return _Progress(progress.step + 1, written, states, cache)

    def is_unfinished(progress: _Progress) -> Bool[Array, ""]:
        ended = (is_reply & (progress.ids == end)).any(axis=1)
        return ~(ended | (reply_from + progress.step >= ids.shape[1])).all()

    start = _Progress(jnp.int32(0), prompts, hidden[rows, reply_from - 1 + moved][:, None], cache)
    return jax.lax.while_loop(is_unfinished, add_token, start).ids


def _choose(
    logits: Float[Array, "b n"], seeds: UInt32[Array, " b"], step: Int[Array, ""], temperature: Float[Array, ""]
) -> Int[Array, " b"]:
    logits = logits.astype(jnp.float32)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), step))(seeds)
    drawn = jax.vmap(jax.random.categorical)(keys, logits / jnp.maximum(temperature, GREEDY))
    return jnp.where(temperature < GREEDY, logits.argmax(axis=-1), drawn)


def _read_on(
    model: Llava, ids: Int[Array, "b 1"], at: Int[Array, "b 1"], seen: Bool[Array, "b s"]
) -> Float[Array, "b 1 d"]:
    """States of tokens at some places of rows that have been read, whatever was there before."""
    return model.decoder(model.decoder.embed(ids), at, seen[:, None, None], at)
