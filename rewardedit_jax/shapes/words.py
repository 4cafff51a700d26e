"""What the text encoder of the world learns besides editing: the words of a text.

CLIP has read English before an editor is trained on it. The text encoder here is trained with the editor, which reads
instructions only: most words of feedback would stay as they were drawn. With this loss the pooled state tells which
words a text has, those of feedback among them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardedit_jax.models.clip import CLIPTextModel, end_of_text
from rewardedit_jax.params import Params


def words_loss(encoder: CLIPTextModel, params: Params, ids: Int[Array, "b l"]) -> Float[Array, " b"]:
    """Cross-entropy of the words of each text, all equally likely, given its pooled state; 0 for a text without words.

    For n different words it is at least log n. The logit of a word is the product of the pooled state and the embedding
    of the word: there are no further parameters.
    """
    pooled = encoder.apply({"params": params}, ids).pooled
    embedding = params["embeddings"]["token_embedding"]["embedding"]
    log_probabilities = jax.nn.log_softmax(pooled @ embedding.T)
    # Between the start token and the end token; padding repeats the latter.
    place = jnp.arange(ids.shape[1])
    inside = (place > 0) & (place < end_of_text(ids, encoder.config.eos_token_id)[:, None])
    found = jnp.take_along_axis(log_probabilities, ids, axis=1)
    return -(found * inside).sum(1) / jnp.maximum(inside.sum(1), 1)
