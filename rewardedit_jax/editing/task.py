"""The editing task: what the trainer needs to train a reward-conditioned editor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from rewardedit_jax.data.order import recipe_order
from rewardedit_jax.data.pipeline import EditBatch, edit_batches
from rewardedit_jax.data.records import Source
from rewardedit_jax.data.sources import open_source
from rewardedit_jax.data.tokenize import CLIPTokenizer, tokenize
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.initialise import starting_editor
from rewardedit_jax.editing.objective import Dropout, editing_loss
from rewardedit_jax.models import clip, unet, vae
from rewardedit_jax.params import Params
from rewardedit_jax.training.task import Evaluator

# The partition rules of the three networks, under the component's name.
PARTITION_RULES: tuple[tuple[str, PartitionSpec], ...] = tuple(
    (f"{component}/{path}", spec)
    for component, rules in (
        ("unet", unet.PARTITION_RULES),
        ("vae", vae.PARTITION_RULES),
        ("text_encoder", clip.TEXT_PARTITION_RULES),
    )
    for path, spec in rules
)


class EditingTask:
    """Trains the parts of an editor that `config.trainable` names, on imperfect triplets. A `training.task.Task`."""

    partition_rules = PARTITION_RULES

    def __init__(self, config: ConfigDict):
        self.config = config
        self.trainable = tuple(config.trainable)
        # Before the weights: a mistyped folder shows within a second.
        self.source = self.open_source(config.data)
        self.editor = starting_editor(config)
        self.dropout = Dropout(config.conditioning_dropout, config.reward.dropout)
        self.null_ids = tokenize(self.editor.tokenizer, [""])[0]
        self._check_rewards()

    def open_source(self, data: ConfigDict) -> Source:
        """The training records; a task on data of its own overrides this."""
        return open_source(data)

    def _check_rewards(self) -> None:
        record = self.source[0]
        if self.editor.has_reward and (record.scores is None or record.feedback is None):
            raise ValueError(
                f"record {record.key} of {self.config.data.name} lacks scores or feedback, which a reward-conditioned "
                "editor trains on. Use data with rewards, or train without: --config.reward.layout=''."
            )

    def init(self, rng: Key[Array, ""]) -> Params:
        """The start editor's parameters; it lets go of them, so that a large model is in memory once."""
        params, self.editor = self.editor.params, replace(self.editor, params={})
        return params

    def loss(
        self, params: Params, batch: EditBatch, rng: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], Mapping[str, Float[Array, " b"]]]:
        networks, schedule = self.editor.networks, self.editor.schedule
        losses = editing_loss(networks, params, schedule, self.dropout, batch, jnp.asarray(self.null_ids), rng)
        return losses, {}

    def batches(self, start: int) -> Iterator[EditBatch]:
        return recipe_batches(self.config, self.source, self.editor.tokenizer, self.config.reward.perspectives, start)

    def with_params(self, params: Params) -> Editor:
        """The editor in its present state, for evaluation and export."""
        return replace(self.editor, params=params)

    def evaluators(self) -> Mapping[str, Evaluator]:
        """None: public training data has no judge that runs within a training step's time."""
        return {}

    def export(self, params: Params, directory: Path) -> None:
        self.with_params(params).save(directory)


def recipe_batches(
    config: ConfigDict, source: Source, tokenizer: CLIPTokenizer, perspectives: Sequence[str], start: int
) -> Iterator[EditBatch]:
    """This host's batches of a recipe from step `start` on, each with all of its step's micro-batches."""
    return edit_batches(
        source,
        tokenizer,
        resolution=config.data.resolution,
        flip=config.data.flip,
        perspectives=perspectives,
        **recipe_order(config, start),
    )
