"""The scorer that a training run starts from.

Read from `config.init`: a scorer, whose heads go on, or a base model, which gets heads. Without `config.init`, from
scratch: the network that `config.network` describes, with the tokenizer of `config.base` and a patch embedding that
whitens the patches of some pairs.
"""

from dataclasses import replace

import jax
import numpy as np
from absl import logging
from jaxtyping import Float32
from ml_collections import ConfigDict
from PIL import Image

from rewardedit_jax.data.bad_records import BadRecords
from rewardedit_jax.data.preferences import PreferenceSource
from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig, RewardHeadsConfig
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.params import random_params
from rewardedit_jax.scoring.images import prepare_image, to_patches
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.scoring.tokenizer import load_tokenizer
from rewardedit_jax.scoring.whitening import whitening_kernel
from rewardedit_jax.weights.hub import find_tokenizer

_WHITENED = 512  # edits whose patches are whitened: thousands of patches


def starting_scorer(config: ConfigDict, source: PreferenceSource) -> Scorer:
    """The scorer of a recipe, parameters (float32) in host memory except those drawn from `config.seed`.

    Args:
      source: what it will learn from.
    """
    scorer = Scorer.read(config.init, config.base or None) if config.init else _described(config, source)
    heads = RewardHeadsConfig(config.heads.kind, tuple(config.heads.hidden_sizes), config.heads.aggregation)
    network = replace(scorer.module.config, heads=heads, positions=config.positions)
    if config.init:
        _tell_changes(config.init, scorer.module.config, network)
    known = dict(scorer.params)
    if not _same_heads(scorer.module.config.heads, heads):
        known.pop("heads", None)
    module = EditReward(network, dtype=config.compute.dtype, remat=config.compute.remat)
    params = random_params(module, jax.random.key(config.seed), known)
    # A calibration is of the scores that the old parameters give.
    return replace(scorer, module=module, params=params, area=config.data.area, calibration=None)


def _same_heads(there: RewardHeadsConfig | None, wanted: RewardHeadsConfig) -> bool:
    """Whether the parameters of heads fit; how their outputs are aggregated is no matter of parameters."""
    return there is not None and replace(there, aggregation=wanted.aggregation) == wanted


def _tell_changes(init: str, there: EditRewardConfig, wanted: EditRewardConfig) -> None:
    """Warns of what the recipe takes away from a scorer that it starts from. A base model has nothing to lose."""
    if there.heads is None:
        return
    if not _same_heads(there.heads, wanted.heads):
        logging.warning("%s has heads %s; the recipe wants %s, drawn anew.", init, there.heads, wanted.heads)
    if there.positions != wanted.positions:
        logging.warning("%s counts positions %s; the recipe says %s.", init, there.positions, wanted.positions)


def _described(config: ConfigDict, source: PreferenceSource) -> Scorer:
    """A network of which nothing is known but its sizes, and what its images look like."""
    tokenizer = load_tokenizer(find_tokenizer(config.base))
    text = {**config.network.text.to_dict(), "vocab_size": tokenizer.reward_id + 1}
    network = EditRewardConfig(
        text=DecoderConfig.from_hf(text),
        vision=QwenVisionConfig.from_hf(config.network.vision.to_dict()),
        image_token_id=tokenizer.image_id,
    )
    patches = _some_patches(source, config.data.area, config.data.skip_bad)
    kernel = whitening_kernel(patches, network.vision.hidden_size, config.seed)
    return Scorer(EditReward(network), {"visual": {"patch_embed": {"proj": {"kernel": kernel}}}}, tokenizer)


def _some_patches(source: PreferenceSource, area: int, skip_bad: bool) -> Float32[np.ndarray, "n 1176"]:
    """Of one edit of each of some pairs, spread over the source; with `skip_bad`, of those that can be read."""
    found = []
    for i in np.linspace(0, len(source) - 1, min(len(source), _WHITENED)).astype(int).tolist():
        try:
            found.append(to_patches(prepare_image(Image.fromarray(source[i].edited_a), area).pixels))
        except ValueError as error:  # also ImageError and BadRecords; training logs it if it draws the pair
            if not skip_bad:
                key = source.labels[i].key
                raise BadRecords(f"pair {key}: {error}\ndata.skip_bad=True goes on without it.") from error
    if not found:
        raise BadRecords(f"of {len(source)} pairs, some were tried and none can be used.")
    return np.concatenate(found)
