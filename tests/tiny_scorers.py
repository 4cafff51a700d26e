"""A tiny scorer on random weights."""

import jax
import numpy as np

from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.models.reward_heads import RewardHeadsConfig
from rewardedit_jax.scoring.initialise import shapes_tokenizer
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.weights.pretrained import abstract_params

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
    tokenizer = shapes_tokenizer()
    config = tiny_config(kind, aggregation=aggregation, tokens=tokenizer.reward_id, image_token_id=tokenizer.image_id)
    module, params = tiny_scorer(config, seed)
    return Scorer(module, params, tokenizer, area=112 * 112)
