"""Scores of images that are on the devices, computed within the caller's program.

Reward back-propagation, reinforcement learning and best-of-n score images that a program has just computed. The caller
traces `score_arrays` in its own `jax.jit`: the images do not pass through the host, and there is no server. All images
of a call have one size, which the caller chooses; `Scorer.score` instead takes images of any size, as files too.

Axes: s sources, b edits, k prompts of an edit, h × w pixels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Num

from rewardedit_jax.models.edit_reward import EditReward, PackedPrompts
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.models.vision_plan import VisionPlan, plan_images
from rewardedit_jax.params import Params
from rewardedit_jax.scoring.images import FACTOR, PATCH, to_patches
from rewardedit_jax.scoring.inference import product_precision
from rewardedit_jax.scoring.packing import pack_row, stack_rows, tokenize
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer


def array_prompts(
    instructions: Sequence[str], height: int, width: int, tokenizer: ScorerTokenizer, system: str, count: int
) -> PackedPrompts:
    """One row per instruction, with the first `count` prompts, for images of this size.

    Image slots count within the row: the tokens of the source, then those of the edited image.

    Raises ValueError for a size that has no whole tokens, no instruction, or one that `prompts.question` refuses.
    """
    if isinstance(instructions, str) or not instructions:
        raise ValueError(f"instructions={instructions!r}: expected a list of texts, one for each edit.")
    tokens = _image_tokens(height, width)
    slots = np.arange(2 * tokens, dtype=np.int32)
    rows = {}
    for text in dict.fromkeys(instructions):  # edits of one source often share their instruction
        prompts, positions = tokenize(text, (tokens, tokens), tokenizer, system)
        rows[text] = pack_row(prompts[:count], positions, slots)
    return stack_rows([rows[text] for text in instructions], len(instructions))


def score_arrays(
    module: EditReward,
    params: Params,
    sources: Num[Array | np.ndarray, "s h w 3"],
    edited: Num[Array | np.ndarray, "b h w 3"],
    prompts: PackedPrompts,
) -> Float32[Array, "b k 2"]:
    """(mean, log σ) of each prompt of each edit (eq. 2), before aggregation (`models.edit_reward.aggregate`, eq. 3).

    Pure, and differentiable in `params` and in float images.

    Args:
      sources: uint8 or float, 0..255, as `edited`; sides are multiples of 28. `s` divides `b`, and edit i belongs to
        source i // (b / s). A source is encoded once for all its edits.
      prompts: `array_prompts` of this size, one row per edit. The scores of rows of another size are NaN.
    Raises:
      ValueError: the shapes do not fit together.
    """
    each, tokens = _edits_per_source(sources, edited, prompts), _image_tokens(*edited.shape[1:3])
    # A source and its edits are neighbours, so that a batch that is divided over devices stays where it is.
    groups = jnp.concatenate([sources[:, None], edited.reshape(-1, each, *edited.shape[1:])], axis=1)
    images = groups.reshape(-1, *edited.shape[1:])
    plan = _repeated_plan(module.config.vision, *images.shape[:3])
    placed = prompts.replace(image_slots=_placed(prompts.image_slots, tokens, each))
    with jax.default_matmul_precision(product_precision(module)):
        outputs = module.apply({"params": params}, to_patches(images), plan, placed, method="score")
    # Lookups out of bounds raise nothing in JAX: prompts of another size would give plausible scores.
    fits = jnp.asarray(prompts.image_slots).max(axis=1) == 2 * tokens - 1
    return jnp.where(fits[:, None, None], outputs, jnp.nan)


def _image_tokens(height: int, width: int) -> int:
    if min(height, width) < FACTOR or height % FACTOR or width % FACTOR:
        raise ValueError(f"images of {height}×{width} pixels: expected sides that are positive multiples of {FACTOR}.")
    return height * width // FACTOR**2


def _edits_per_source(sources: Array | np.ndarray, edited: Array | np.ndarray, prompts: PackedPrompts) -> int:
    if sources.shape[1:] != edited.shape[1:]:
        raise ValueError(f"sources have the shape {sources.shape}, edits {edited.shape}: expected images of one size.")
    if not len(sources) or len(edited) % len(sources):
        raise ValueError(f"{len(edited)} edits of {len(sources)} sources: expected the same number for each source.")
    if len(prompts.ids) != len(edited):
        raise ValueError(f"{len(prompts.ids)} rows of prompts for {len(edited)} edits: expected one for each.")
    return len(edited) // len(sources)


def _repeated_plan(config: QwenVisionConfig, count: int, height: int, width: int) -> VisionPlan:
    """The plan of `count` images of one size. The program holds that of one image, not a constant for each."""
    one = plan_images(np.array([[1, height // PATCH, width // PATCH]]), config)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape[1:])), one)


def _placed(slots: Array | np.ndarray, tokens: int, each: int) -> Array:
    """Image slots of each row → slots among the features of all images, which lie as `score_arrays` has them."""
    edit = jnp.arange(len(slots))[:, None]
    source = edit // each * (1 + each)
    image = jnp.where(slots < tokens, source, source + 1 + edit % each)
    # -1 marks tokens that are not image tokens.
    return jnp.where(slots >= 0, image * tokens + slots % tokens, -1)
