"""Opens the files of a scorer, or of the base model that one starts from: all are read but the weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig
from rewardedit_jax.params import Params
from rewardedit_jax.scoring.edit_score import Calibration
from rewardedit_jax.scoring.images import AREA
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer, load_scorer_tokenizer, reward_rows
from rewardedit_jax.weights.files import WeightFileError
from rewardedit_jax.weights.hub import find_model
from rewardedit_jax.weights.kinds import read_config
from rewardedit_jax.weights.pretrained import PretrainedNetwork, open_pretrained

_SETTINGS = ("kind", "aggregation", "positions", "system", "area")  # under "reward_model" in config.json


class OpenedScorer(NamedTuple):
    """A scorer, or the base model that one starts from, whose weights were not read yet; fields as in `Scorer`."""

    module: EditReward
    tokenizer: ScorerTokenizer
    system: str
    area: int
    calibration: Calibration | None
    network: PretrainedNetwork  # as it is in the files, with the padding rows of its embedding

    def read(self, wanted: Callable[[str], bool] | None = None) -> Params:
        """The parameters in host memory; only those whose path is `wanted`, if it is given."""
        params = self.network.read(wanted)
        # A view, not a copy. The last remaining row becomes the reward token's, as in EditReward's training.
        if "embedding" in params.get("decoder", {}).get("embed_tokens", {}):
            rows = self.module.config.text.vocab_size
            embedding = {"embedding": params["decoder"]["embed_tokens"]["embedding"][:rows]}
            params = {**params, "decoder": {**params["decoder"], "embed_tokens": embedding}}
        return params


def open_scorer(
    model: str | Path, base: str | Path | None = None, dtype: DTypeLike = jnp.float32, allow_nonfinite: bool = False
) -> OpenedScorer:
    """Open a scorer or a base model (as `Scorer.load`): configuration, tokenizer and calibration are read, weights not.

    The embedding matrix of a base model has padding rows. It is cut to the tokens of the tokenizer and the reward
    token, as `resize_token_embeddings` does in EditReward's training code.
    """
    # Small files first, so that a wrong tokenizer fails before gigabytes are downloaded.
    directory = find_model(model, (), weights=False)
    _, config = read_config(directory)
    if not config.get("vision_config"):
        raise WeightFileError(f"{directory / 'config.json'} has no vision_config: expected a vision-language model.")
    tokenizer = load_scorer_tokenizer(directory, base)
    settings = _settings(config, directory)
    system = settings.get("system")
    if system is None:  # an empty text is a system turn too
        system = tokenizer.default_system()
    directory = find_model(model, ())
    network = open_pretrained(directory, dtype, dtype, allow_nonfinite)
    _check_tokenizer(tokenizer, network, config)
    text = replace(network.module.config.text, vocab_size=tokenizer.reward_id + 1)
    module = network.module.clone(config=replace(network.module.config, text=text))
    calibration = Calibration.read(directory)
    return OpenedScorer(module, tokenizer, system, settings.get("area", AREA), calibration, network)


def _settings(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    settings = config.get("reward_model") or {}
    if unknown := settings.keys() - _SETTINGS:
        raise WeightFileError(
            f"{directory / 'config.json'}: unknown settings {', '.join(sorted(unknown))} of reward_model; expected "
            f"{', '.join(_SETTINGS)}."
        )
    return settings


def _check_tokenizer(tokenizer: ScorerTokenizer, network: PretrainedNetwork, config: dict[str, Any]) -> None:
    """Raises ValueError if the tokenizer does not belong to the network."""
    if rows := reward_rows(network.tensors.shapes):
        tokenizer.check_rows(rows)
    # A tokenizer of another model has other ids for the same words: nothing would fail, but scores would be wrong.
    image_id = config.get("image_token_id", EditRewardConfig.image_token_id)
    if image_id != tokenizer.image_id:
        raise ValueError(
            f"image_token_id={image_id} in {network.directory / 'config.json'}, but the tokenizer's image token is "
            f"{tokenizer.image_id}: they belong to different models; give another base=."
        )
    rows, needed = network.module.config.text.vocab_size, tokenizer.reward_id + 1
    if rows < needed:
        raise ValueError(f"the model has {rows} embedding rows, its tokenizer needs {needed}: give another base=.")
