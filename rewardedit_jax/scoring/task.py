"""The scoring task: EditReward's training (arXiv:2509.26346, sections 3.2 and 4.1) for the trainer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from rewardedit_jax.data.records import PreferenceSource
from rewardedit_jax.models import edit_reward
from rewardedit_jax.models.decoder import check_tensor_axis
from rewardedit_jax.models.edit_reward import RewardHeadsConfig, aggregate
from rewardedit_jax.params import Params, abstract_params
from rewardedit_jax.scoring.initialise import starting_scorer
from rewardedit_jax.scoring.objectives import Pairs, Side, objective, preference_probability
from rewardedit_jax.scoring.pairs import TIES, PairBatch, all_images, all_prompts, pair_batches
from rewardedit_jax.scoring.prompts import PERSPECTIVES
from rewardedit_jax.scoring.recipe import PREFERENCES, ScoringRecipe
from rewardedit_jax.scoring.scorer import EMBEDDING, Scorer
from rewardedit_jax.training.recipe import TrainingRecipe, check_recipe
from rewardedit_jax.training.task import Evaluator

# The reward token's embedding row is a parameter of its own, beside the network: rules of `trainable` can then train it
# and freeze the rest of the matrix.
_ROW = "reward_token/embedding"
PARTITION_RULES = ((_ROW, P()), *((f"scorer/{path}", spec) for path, spec in edit_reward.PARTITION_RULES))


class ScoringTask:
    """Trains the parts of a scorer that `config.trainable` names on pairs of edits. A `training.task.Task`.

    Parameters: `scorer`, the tree of the network, and `reward_token`, which replaces the last row of its embedding
    matrix. The task holds no parameters itself.
    """

    partition_rules = PARTITION_RULES
    schema: ClassVar[type[TrainingRecipe]] = ScoringRecipe

    def __init__(self, config: ConfigDict):
        check_recipe(config, self.schema)
        self.config = config
        self.trainable = tuple(config.trainable)
        # Data first: a wrong path fails before the model is downloaded or opened.
        self.source = self.open_source(config.data)
        self.rows = TIES[config.data.ties](self.source.labels[: config.data.get("pairs") or None])
        if not self.rows:
            raise ValueError(f"none of the {len(self.source)} pairs of {config.data.name} has a preferred edit.")
        heads = RewardHeadsConfig(config.heads.kind)
        settings = {name: value for name, value in config.objective.settings.items() if value is not None}
        self.objective = objective(config.objective.name, heads.prompts, **settings)
        self._start = starting_scorer(config, self.source)
        self.scorer = self._start.scorer  # without parameters
        check_tensor_axis(self.scorer.module.config.text, config.mesh.tensor)

    def open_source(self, data: ConfigDict) -> PreferenceSource:
        """The training pairs. Tasks on other data override this."""
        return PREFERENCES[data.name](data)

    def abstract_params(self) -> Params:
        """Shapes and dtypes (`jax.ShapeDtypeStruct`) of the parameters. Reads and computes nothing."""
        params = abstract_params(self.scorer.module)
        matrix = flatten_dict(params, sep="/")[EMBEDDING]
        return {"scorer": params, "reward_token": {"embedding": jax.ShapeDtypeStruct(matrix.shape[1:], matrix.dtype)}}

    def init(self, rng: Key[Array, ""], wanted: Callable[[str], bool] | None = None) -> Params:
        """The start scorer's parameters (those `wanted`), in host memory except those that are drawn from `rng`."""
        wanted = wanted or (lambda path: True)

        # The row is a part of the matrix, which is read or drawn even if only the row is wanted.
        def in_network(path: str) -> bool:
            return wanted(f"scorer/{path}") or (path == EMBEDDING and wanted(_ROW))

        network = flatten_dict(self._start.init(rng, in_network), sep="/")
        params = {f"scorer/{path}": leaf for path, leaf in network.items()}
        if wanted(_ROW):
            params[_ROW] = network[EMBEDDING][-1]
        return unflatten_dict({path: leaf for path, leaf in params.items() if wanted(path)}, sep="/")

    def loss(
        self, params: Params, batch: PairBatch, rng: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], Mapping[str, Float[Array, " b"]]]:
        """Loss per pair, and metrics per pair."""
        drop, draw = jax.random.split(rng)
        outputs = self._outputs(params, batch, drop)
        overall = aggregate(outputs, self.scorer.module.config.heads.aggregation)  # eq. 3
        # Axis 1 of ratings and outputs: the preferred edit, the other edit.
        ratings = (None, None) if batch.ratings is None else (batch.ratings[:, 0], batch.ratings[:, 1])
        preferred, other = (Side(overall[:, i], outputs[:, i], ratings[i]) for i in (0, 1))
        losses = self.objective(Pairs(preferred, other, batch.tied), draw)
        return losses, _metrics(overall, batch) | _metrics_by_perspective(outputs, batch)

    def _outputs(self, params: Params, batch: PairBatch, rng: Key[Array, ""]) -> Float[Array, "b 2 k 2"]:
        """(mean, log σ) for each prompt of the preferred and the other edit: eq. 2."""
        outputs = self.scorer.module.apply(
            {"params": params["scorer"]},
            *all_images(batch),
            all_prompts(batch),
            params["reward_token"]["embedding"],
            deterministic=False,
            rngs={"dropout": rng, "lora": rng},
            method="score",
        )
        return outputs.reshape(-1, 2, *outputs.shape[1:])

    def batches(self, start: int) -> Iterator[PairBatch]:
        tokenizer, vision = self.scorer.tokenizer, self.scorer.module.config.vision
        return pair_batches(self.config, self.source, self.rows, tokenizer, vision, self.scorer.system, start)

    def with_params(self, params: Params) -> Scorer:
        """The scorer with these parameters, for evaluation and export."""
        # The trained row goes back to its place in the embedding matrix, where other software expects it.
        tree, row = params["scorer"], params["reward_token"]["embedding"]
        embedding = jnp.asarray(tree["decoder"]["embed_tokens"]["embedding"]).at[-1].set(row)
        decoder = {**tree["decoder"], "embed_tokens": {"embedding": embedding}}
        return replace(self.scorer, params={**tree, "decoder": decoder})

    def evaluators(self) -> Mapping[str, Evaluator]:
        """None: measuring accuracy needs a benchmark, see launch/evaluate.py. Tasks on other data override this."""
        return {}

    def export(self, params: Params, directory: Path) -> None:
        self.with_params(params).save(directory)


def _metrics(overall: Float[Array, "b 2 2"], batch: PairBatch) -> dict[str, Float[Array, " b"]]:
    """Metrics of each pair. A tied pair counts as half right."""
    preferred, other = overall[:, 0], overall[:, 1]
    right = jnp.where(batch.tied, 0.5, (preferred[:, 0] > other[:, 0]).astype(jnp.float32))
    return {
        "accuracy": right,
        "probability": preference_probability(preferred, other),
        "difference": preferred[:, 0] - other[:, 0],
        "std": jnp.exp(overall[..., 1]).mean(axis=1),
    }


def _metrics_by_perspective(outputs: Float[Array, "b 2 k 2"], batch: PairBatch) -> dict[str, Float[Array, " b"]]:
    """Accuracy by the ratings of each perspective; a pair with equal ratings counts as half right.

    Empty for data without ratings and for scorers with a single prompt.
    """
    if batch.ratings is None or outputs.shape[2] != len(PERSPECTIVES):
        return {}
    wanted = jnp.sign(batch.ratings[:, 0] - batch.ratings[:, 1])
    # Column 0 is the mean: σ does not take part in the order.
    found = jnp.sign(outputs[:, 0, :, 0] - outputs[:, 1, :, 0])
    right = jnp.where(wanted == 0, 0.5, (wanted == found).astype(jnp.float32))
    return {f"accuracy_{perspective}": right[:, i] for i, perspective in enumerate(PERSPECTIVES)}
