"""Replies that SmartEdit's language model samples for edits, as in its published inference, in place of the given one.

A reply is sampled as ids, which take their places in the conversation. The states of its image tokens then follow from
one pass over the conversation, as those of a given reply do.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int, UInt32

from rewardedit_jax.arguments import as_number
from rewardedit_jax.data.llama_tokenizer import END_ID
from rewardedit_jax.data.smartedit_prompts import find_replies, image_tokens
from rewardedit_jax.models.replies import sample_replies
from rewardedit_jax.params import Params

_READERS = ("vision_encoder", "language_model")


class ReplyWarning(UserWarning):
    """A language model has not replied with a picture; the reply that it was trained to give takes its place."""


def with_sampled_replies(
    base: Any, params: Params, inputs: Any, instructions: Sequence[str], seeds: UInt32[np.ndarray, " b"]
) -> Any:
    """Inputs of a `smartedit.SmartEdit` in which replies are the language model's own.

    A reply without the image tokens in their order leaves the given one, with a warning: the others of a batch are
    edited all the same, and a trained model hardly ever gives one. The published code fails an assertion.
    """
    temperature = np.float32(as_number("reply_temperature", base.reply_temperature, 0))
    readers = {name: params[name] for name in _READERS}
    ids = np.asarray(_sampled_ids(base, readers, inputs, seeds, temperature))
    tokenizer = base.language_tokenizer
    found = find_replies(ids, inputs.reply_from, [tokenizer.added[token] for token in image_tokens(tokenizer)])
    rows = inputs.ids.copy(), inputs.reply_at.copy()
    for i, (instruction, at) in enumerate(zip(instructions, found, strict=True)):
        if at is None:
            message = f"the language model's reply to {instruction!r} has no picture: the usual reply takes its place."
            warnings.warn(message, ReplyWarning, 2)
        else:
            rows[0][i], rows[1][i] = ids[i], at
    return inputs.replace(ids=rows[0], reply_at=rows[1])


@partial(jax.jit, static_argnames="base")
def _sampled_ids(
    base: Any, params: Params, inputs: Any, seeds: UInt32[Array, " b"], temperature: Float[Array, ""]
) -> Int[Array, "b l"]:
    logging.info("compiling the language model's replies for batches of %d", len(inputs.ids))
    features = base.see(params, inputs.pixels)
    prompts = inputs.ids, features, inputs.image_at, inputs.reply_from
    return sample_replies(base.language_model, params["language_model"], *prompts, END_ID, seeds, temperature)
