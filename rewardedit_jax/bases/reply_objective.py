"""The language model's own objective in the training of SmartEdit: cross-entropy of the replies (section 3.3).

With LoRA, of the words only those rows train that SmartEdit has added to the vocabulary.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardedit_jax.data.smartedit_prompts import NO_TARGET
from rewardedit_jax.models.llava import Llava
from rewardedit_jax.params import Params


def with_frozen_words(params: Params, known: int) -> Params:
    """The parameters of the language model, of whose words the first `known` get no gradient."""
    embedding, head = params["decoder"]["embed_tokens"]["embedding"], params["lm_head"]["kernel"]
    rows = jnp.concatenate([jax.lax.stop_gradient(embedding[:known]), embedding[known:]])
    columns = jnp.concatenate([jax.lax.stop_gradient(head[:, :known]), head[:, known:]], axis=1)
    return {
        **params,
        "decoder": {**params["decoder"], "embed_tokens": {"embedding": rows}},
        "lm_head": {"kernel": columns},
    }


def reply_loss(
    language_model: Llava, params: Params, targets: Int[Array, "b l"], hidden: Float[Array, "b s d"]
) -> Float[Array, " b"]:
    """Cross-entropy of the replies, of which the mean over the batch is the mean over all of their tokens.

    Args:
      params: of the language model.
      targets: ids of the replies by place in the text; NO_TARGET elsewhere.
      hidden: the states of text and image.
    """
    # A reply is behind the image: counted from the end, its tokens are where they are in the text.
    hidden = hidden[:, -targets.shape[1] :]
    logits = language_model.apply({"params": params}, hidden[:, :-1], method="logits")
    errors, count = token_errors(logits, targets[:, 1:]), (targets[:, 1:] != NO_TARGET).sum()
    return errors.sum(1) * len(targets) / jnp.maximum(count, 1)


def token_errors(logits: Float[Array, "b l n"], targets: Int[Array, "b l"]) -> Float[Array, "b l"]:
    """Cross-entropy of each id that is to be predicted, float32; 0 at NO_TARGET."""
    is_target = targets != NO_TARGET
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    found = jnp.take_along_axis(log_probabilities, jnp.where(is_target, targets, 0)[..., None], axis=-1)[..., 0]
    return -found * is_target
