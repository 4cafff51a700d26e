"""A tiny scorer on random weights."""

import jax
import numpy as np

from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig, RewardHeadsConfig
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.params import abstract_params
from rewardedit_jax.scoring.images import to_patches
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.shapes.tokenizers import shapes_scorer_tokenizer

TOKENS = 600  # of the tiny tokenizer; the reward token comes on top


def tiny_config(kind="separate", positions="plain", aggregation="mean", tokens=TOKENS, image_token_id=599):
    return EditRewardConfig(
        text=DecoderConfig(
            vocab_size=tokens + 1,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            mrope_section=(2, 1, 1),
        ),
        vision=QwenVisionConfig(
            depth=2, hidden_size=16, num_heads=2, intermediate_size=24, out_hidden_size=32, fullatt_block_indexes=(1,)
        ),
        heads=RewardHeadsConfig(kind, (24, 16), aggregation),
        positions=positions,
        image_token_id=image_token_id,
    )


def tiny_scorer(config=None, seed=0):
    """(module, params)."""
    module = EditReward(config or tiny_config())
    rng = np.random.default_rng(seed)

    def draw(leaf):  # twice the usual size, so that scores depend on single tokens
        variance = 4 / leaf.shape[0] if leaf.ndim > 1 else 0.1
        return np.float32(variance**0.5) * rng.standard_normal(leaf.shape, np.float32)

    return module, jax.tree.map(draw, abstract_params(module))


def shapes_scorer(kind="separate", aggregation="mean", seed=0):
    """A tiny scorer with the tokenizer of the shapes world, whose prompts are short."""
    tokenizer = shapes_scorer_tokenizer()
    config = tiny_config(kind, aggregation=aggregation, tokens=tokenizer.reward_id, image_token_id=tokenizer.image_id)
    module, params = tiny_scorer(config, seed)
    return Scorer(module, params, tokenizer, area=112 * 112)


def two_passes(scorer, source, edited, instruction):
    """[mean, log σ] of an edit as published code has them: a pass per prompt, with nothing shared or padded."""
    item = scorer.prepare(source, edited, instruction)
    pixels = np.concatenate([to_patches(image.pixels) for image in (item.source, item.edited)])
    grids = np.array([item.source.grid, item.edited.grid])
    return np.concatenate(
        [
            one_prompt(scorer.module, scorer.params, ids[None], np.ones_like(ids)[None], pixels, grids, head)
            for head, ids in enumerate(item.prompts)
        ]
    )


def one_prompt(module, params, ids, mask, pixels, grids, head):
    """(mean, log σ) of a pass over one prompt of each row; compiled, as op by op takes ten times as long."""
    return jax.jit(lambda *prompt: module.apply({"params": params}, *prompt, pixels, grids, head=head).outputs)(
        ids, mask
    )
