"""The scorer that a training run starts from.

With `config.init`, a scorer, whose heads are trained further, or a base model, which gets new heads. Without it, a
network from scratch of the sizes in `config.network`, with the tokenizer of `config.base` and a patch embedding that
whitens the patches of some pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from absl import logging
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float32, Key
from ml_collections import ConfigDict
from PIL import Image

from rewardedit_jax.bases.base import Component
from rewardedit_jax.bases.low_rank import with_lora
from rewardedit_jax.data.records import BadRecords, PreferenceSource
from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig, RewardHeadsConfig
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.params import Params, random_params
from rewardedit_jax.scoring.images import prepare_scorer_image, to_patches
from rewardedit_jax.scoring.opening import open_scorer
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.scoring.tokenizer import load_scorer_tokenizer
from rewardedit_jax.weights.hub import find_tokenizer

Wanted = Callable[[str], bool]  # path of a parameter → is it needed?

_PATCH_KERNEL = "visual/patch_embed/proj/kernel"
_WHITENED_EDITS = 512  # with 16 patches each, as in the shapes world, 8,192 patches of 1176 values
# Share of the mean variance that is added to each direction, so that directions that hardly vary are not amplified.
_VARIANCE_FLOOR = 0.2


@dataclass(frozen=True, eq=False)
class StartingScorer:
    """The scorer that a run starts from, without parameters, and the function that makes them."""

    scorer: Scorer  # params is empty
    known: Callable[[Wanted], Params]  # the wanted parameters that are not drawn at random

    def init(self, rng: Key[Array, ""], wanted: Wanted = lambda path: True) -> Params:
        """The parameters (float32) whose path is wanted: read or computed if they are known, else drawn from `rng`."""
        return random_params(self.scorer.module, rng, self.known(wanted), wanted)


def starting_scorer(config: ConfigDict, source: PreferenceSource) -> StartingScorer:
    """The scorer of a recipe. Reads configuration and tokenizer files and the headers of weight files.

    Args:
      source: training pairs; without `config.init`, the patches of some of them are whitened.
    """
    if config.init:
        opened = open_scorer(config.init, config.base or None)
        start = StartingScorer(Scorer(opened.module, {}, opened.tokenizer, opened.system), opened.read)
    else:
        start = _from_scratch(config, source)
    old = start.scorer.module.config
    heads = RewardHeadsConfig(config.heads.kind, tuple(config.heads.hidden_sizes), config.heads.aggregation)
    # Aggregation has no parameters: those of the old heads fit any.
    fit = old.heads is not None and replace(old.heads, aggregation=heads.aggregation) == heads
    if old.heads and not fit:  # neither a base model nor a new network has heads to lose
        logging.warning("%s has heads %s; the recipe's heads %s are drawn anew.", config.init, old.heads, heads)
    if old.heads and old.positions != config.positions:
        values = old.positions, config.positions
        logging.warning("%s has positions=%r; the recipe has positions=%r.", config.init, *values)
    network = replace(old, heads=heads, positions=config.positions)
    module = EditReward(network, dtype=config.compute.dtype, remat=config.compute.remat, lora=start.scorer.module.lora)
    module = with_lora({"scorer": Component(module)}, config.get("lora"))["scorer"].module
    # A calibration belongs to the scores that the old parameters give.
    scorer = replace(start.scorer, module=module, area=config.data.area, calibration=None)
    return StartingScorer(scorer, start.known if fit else _without_heads(start.known))


def _without_heads(known: Callable[[Wanted], Params]) -> Callable[[Wanted], Params]:
    return lambda wanted: known(lambda path: wanted(path) and not path.startswith("heads/"))


def _from_scratch(config: ConfigDict, source: PreferenceSource) -> StartingScorer:
    """A network of the recipe's sizes; only the kernel of its patch embedding is known."""
    tokenizer = load_scorer_tokenizer(find_tokenizer(config.base))
    text = {**config.network.text.to_dict(), "vocab_size": tokenizer.reward_id + 1}
    network = EditRewardConfig(
        text=DecoderConfig.from_hf(text),
        vision=QwenVisionConfig.from_hf(config.network.vision.to_dict()),
        image_token_id=tokenizer.image_id,
        heads=None,
    )

    def known(wanted: Wanted) -> Params:
        if not wanted(_PATCH_KERNEL):
            return {}
        patches = _sample_patches(source, config.data.area, config.data.skip_bad)
        kernel = whitening_kernel(patches, network.vision.hidden_size, config.seed)
        return unflatten_dict({_PATCH_KERNEL: kernel}, sep="/")

    return StartingScorer(Scorer(EditReward(network), {}, tokenizer), known)


def _sample_patches(source: PreferenceSource, area: int, skip_bad: bool) -> Float32[np.ndarray, "n 1176"]:
    """Patches of the first edit of up to 512 pairs, evenly spaced in the source."""
    found = []
    for i in np.linspace(0, len(source) - 1, min(len(source), _WHITENED_EDITS)).astype(int).tolist():
        try:
            image = Image.fromarray(source[i].edited_a)
            found.append(to_patches(prepare_scorer_image(image, area).pixels))
        except ValueError as error:  # includes ImageError and BadRecords
            # Skipped without a log line: training logs the pair if it draws it.
            if not skip_bad:
                key = source.labels[i].key
                raise BadRecords(f"pair {key}: {error}\ndata.skip_bad=True skips it.") from error
    if not found:
        raise BadRecords(f"none of the pairs that were tried can be read ({len(source)} pairs in the source).")
    return np.concatenate(found)


def whitening_kernel(
    patches: Float32[np.ndarray, "n values"], features: int, seed: int
) -> Float32[np.ndarray, "values {features}"]:
    """A patch embedding kernel whose features are random mixtures of whitened patches.

    Features have mean square 1 over the centred `patches`. Brightness varies far more than fine detail: along the
    principal directions of the shapes world's patches, variances span 22,000 : 1. The features of a random kernel
    therefore contain almost nothing of noise, blur and edges, and a network from scratch takes thousands of steps to
    find them. After whitening, all directions have about the same weight.
    """
    # In float64: the smallest variances are far below float32's resolution of the largest.
    centred = (patches - patches.mean(axis=0)).astype(np.float64)
    variance, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    scaled = directions / np.sqrt(np.maximum(variance, 0) + _VARIANCE_FLOOR * variance.mean())
    kernel = scaled @ np.random.default_rng(seed).standard_normal((len(variance), features))
    return (kernel / np.sqrt(np.mean((centred @ kernel) ** 2))).astype(np.float32)
