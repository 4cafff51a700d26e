"""The scoring task: what the trainer needs to train a scorer on judged pairs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from rewardedit_jax.data.preferences import PreferenceSource
from rewardedit_jax.data.sources import open_preferences
from rewardedit_jax.models import edit_reward
from rewardedit_jax.models.decoder import check_tensor_axis
from rewardedit_jax.models.edit_reward import RewardHeadsConfig, aggregate
from rewardedit_jax.params import Params
from rewardedit_jax.scoring.initialise import starting_scorer
from rewardedit_jax.scoring.objectives import Pairs, Side, objective, preference_probability
from rewardedit_jax.scoring.pairs import TIES, PairBatch, all_images, all_prompts, pair_batches
from rewardedit_jax.scoring.prompts import PERSPECTIVES
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.training.task import Evaluator

# The reward token's embedding row lies beside the network, so that it trains where the matrix does not.
PARTITION_RULES = (
    (r"reward_token/embedding", P()),
    *((f"scorer/{path}", spec) for path, spec in edit_reward.PARTITION_RULES),
)


class ScoringTask:
    """Trains the parts of a scorer that `config.trainable` names, on pairs of edits. A `training.task.Task`."""

    partition_rules = PARTITION_RULES

    def __init__(self, config: ConfigDict):
        self.config = config
        self.trainable = tuple(config.trainable)
        # Before the weights: a mistyped folder shows within a second.
        self.source = self.open_source(config.data)
        self.rows = self._rows()
        heads = RewardHeadsConfig(config.heads.kind)
        settings = {name: value for name, value in config.objective.settings.items() if value is not None}
        self.objective = objective(config.objective.name, heads.prompts, **settings)
        self.scorer = starting_scorer(config, self.source)
        check_tensor_axis(self.scorer.module.config.text, config.mesh.tensor)

    def open_source(self, data: ConfigDict) -> PreferenceSource:
        """The judged pairs; a task on data of its own overrides this."""
        return open_preferences(data)

    def _rows(self) -> list:
        if self.config.data.ties not in TIES:
            raise ValueError(f"unknown data.ties {self.config.data.ties!r}; choose one of {', '.join(TIES)}.")
        rows = TIES[self.config.data.ties](self.source.labels)
        if not rows:
            raise ValueError(f"none of the {len(self.source)} pairs of {self.config.data.name} has a preferred edit.")
        return rows

    def init(self, rng: Key[Array, ""]) -> Params:
        """The start scorer's parameters; it lets go of them, so that a large model is in memory once."""
        params, self.scorer = self.scorer.params, replace(self.scorer, params={})
        row = params["decoder"]["embed_tokens"]["embedding"][-1]
        return {"scorer": params, "reward_token": {"embedding": row}}

    def loss(
        self, params: Params, batch: PairBatch, rng: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], Mapping[str, Float[Array, " b"]]]:
        drop, draw = jax.random.split(rng)
        outputs = self._outputs(params, batch, drop)
        overall = aggregate(outputs, self.scorer.module.config.heads.aggregation)
        ratings = (None, None) if batch.ratings is None else (batch.ratings[:, 0], batch.ratings[:, 1])
        preferred, other = (Side(overall[:, i], outputs[:, i], ratings[i]) for i in (0, 1))
        losses = self.objective(Pairs(preferred, other, batch.tied), draw)
        return losses, _metrics(overall, batch) | _metrics_by_perspective(outputs, batch)

    def _outputs(self, params: Params, batch: PairBatch, rng: Key[Array, ""]) -> Float[Array, "b 2 k 2"]:
        """(mean, log σ) of each prompt for the preferred and the other edit."""
        outputs = self.scorer.module.apply(
            {"params": params["scorer"]},
            *all_images(batch),
            all_prompts(batch),
            params["reward_token"]["embedding"],
            deterministic=False,
            rngs={"dropout": rng},
            method="score",
        )
        return outputs.reshape(-1, 2, *outputs.shape[1:])

    def batches(self, start: int) -> Iterator[PairBatch]:
        scorer = self.scorer
        vision = scorer.module.config.vision
        return pair_batches(self.config, self.source, self.rows, scorer.tokenizer, vision, scorer.system, start)

    def with_params(self, params: Params) -> Scorer:
        """The scorer in its present state, for evaluation and export."""
        tree, row = params["scorer"], params["reward_token"]["embedding"]
        embedding = jnp.asarray(tree["decoder"]["embed_tokens"]["embedding"]).at[-1].set(row)
        decoder = {**tree["decoder"], "embed_tokens": {"embedding": embedding}}
        return replace(self.scorer, params={**tree, "decoder": decoder})

    def evaluators(self) -> Mapping[str, Evaluator]:
        """None: public training data has no judge that runs within a training step's time."""
        return {}

    def export(self, params: Params, directory: Path) -> None:
        self.with_params(params).save(directory)


def _metrics(overall: Float[Array, "b 2 2"], batch: PairBatch) -> dict[str, Float[Array, " b"]]:
    """Of each pair. Half of a tied pair counts as right, in whichever order it is."""
    preferred, other = overall[:, 0], overall[:, 1]
    right = jnp.where(batch.tied, 0.5, (preferred[:, 0] > other[:, 0]).astype(jnp.float32))
    return {
        "accuracy": right,
        "probability": preference_probability(preferred, other),
        "difference": preferred[:, 0] - other[:, 0],
        "std": jnp.exp(overall[..., 1]).mean(axis=1),
    }


def _metrics_by_perspective(outputs: Float[Array, "b 2 k 2"], batch: PairBatch) -> dict[str, Float[Array, " b"]]:
    """Accuracy by the ratings of each perspective, where there are ratings and a head for each; ties count half."""
    if batch.ratings is None or outputs.shape[2] != len(PERSPECTIVES):
        return {}
    wanted = jnp.sign(batch.ratings[:, 0] - batch.ratings[:, 1])
    found = jnp.sign(outputs[:, 0, :, 0] - outputs[:, 1, :, 0])
    right = jnp.where(wanted == 0, 0.5, (wanted == found).astype(jnp.float32))
    return {f"accuracy_{perspective}": right[:, i] for i, perspective in enumerate(PERSPECTIVES)}
