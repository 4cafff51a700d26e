"""The editing task: what the trainer needs to train an editor on imperfect edits and their rewards."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from rewardedit_jax.bases import base_named
from rewardedit_jax.bases.base import Dropout, Precomputed, ReportCut
from rewardedit_jax.data.clip_tokenizer import CutTexts
from rewardedit_jax.data.order import first_readable, recipe_order
from rewardedit_jax.data.pipeline import EditBatch, edit_batches, warn_of_sides
from rewardedit_jax.data.records import Source
from rewardedit_jax.editing.cache_plan import check_trainable, is_precomputing, precomputing_params
from rewardedit_jax.editing.cached_examples import CachedExamples, open_cache
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.objective import editing_loss, precompute
from rewardedit_jax.editing.recipe import SOURCES, EditingRecipe
from rewardedit_jax.params import Params
from rewardedit_jax.training.recipe import TrainingRecipe, check_recipe
from rewardedit_jax.training.task import Evaluator


class EditingTask:
    """Trains the parts of an editor that `config.trainable` names. A `training.task.Task`."""

    schema: ClassVar[type[TrainingRecipe]] = EditingRecipe

    def __init__(self, config: ConfigDict):
        check_recipe(config, self.schema)
        self.config = config
        self.trainable = tuple(config.trainable)
        # Before the model: a mistyped folder shows within a second.
        self.source = self.open_source(config.data)
        if config.data.flip:
            warn_of_sides(self.source)
        # Opens configs and tokenizers; weights are read by `init`.
        self.start = base_named(config.base_editor).start(config)
        self.base = self.start.base
        if config.data.resolution % self.base.size_multiple:
            raise ValueError(
                f"data.resolution={config.data.resolution}: expected a multiple of {self.base.size_multiple}, as the "
                "editor's networks halve their input several times"
            )
        self.dropout = Dropout(config.conditioning_dropout, config.reward.dropout)
        self.cache = self._open_cache()
        if self.cache is None:  # what a cache holds was checked when it was made
            self._check_rewards()

    @property
    def partition_rules(self) -> tuple[tuple[str, PartitionSpec], ...]:
        return self.base.partition_rules

    def open_source(self, data: ConfigDict) -> Source:
        """The training records; a task on data of its own overrides this."""
        return SOURCES[data.name](data)

    def _open_cache(self) -> CachedExamples | None:
        """The cache that takes the place of the data, if the recipe names one."""
        folder = self.config.data.get("cache")
        if not folder:
            return None
        check_trainable(self.start, self.trainable)
        return open_cache(Path(folder), self.config, self.start, self.source)

    def _check_rewards(self) -> None:
        """Looks at one record: data without rewards would fail in the first batch, after the model was read."""
        record = first_readable(self.source, self.config.data.skip_bad)
        if self.base.has_reward and (record.scores is None or record.feedback is None):
            raise ValueError(
                f"record {record.key} of {self.config.data.name} lacks scores or feedback. A reward-conditioned "
                "editor trains on both. Use data with rewards, or train without: --config.reward.layout=''."
            )

    def abstract_params(self) -> Params:
        described = self.start.abstract_params()
        return {name: tree for name, tree in described.items() if self._is_used(name)}

    def init(self, rng: Key[Array, ""], wanted: Callable[[str], bool] | None = None) -> Params:
        return self.start.init(rng, lambda path: self._is_used(path) and (wanted is None or wanted(path)))

    def _is_used(self, path: str) -> bool:
        """Whether training uses this parameter: with a cache, those that precompute stay in their files."""
        return self.cache is None or not is_precomputing(self.base, path)

    def loss(
        self, params: Params, batch: EditBatch | Precomputed, rng: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], Mapping[str, Float[Array, " b"]]]:
        if self.cache is None:
            # A key of its own: those of the rest are the same with a cache.
            examples = precompute(self.base, params, batch, jax.random.fold_in(rng, 0))
        else:
            examples = self.cache.restore(batch)
        loss = editing_loss(self.base, params, self.dropout, examples, rng)
        if examples.reply_loss is None:
            return loss, {}
        total = loss + self.config.reply_weight * examples.reply_loss
        return total, {"edit": loss, "reply": examples.reply_loss}

    def read(self, *request: Any, report_cut: ReportCut) -> Any:
        """`Base.read` of a batch of records; a task whose loss needs more of them overrides this."""
        return self.base.read(*request, report_cut)

    def batches(self, start: int) -> Iterator[EditBatch | Precomputed]:
        data = self.config.data
        order = {"flip": data.flip, "skip_bad": data.skip_bad, **recipe_order(self.config, start)}
        if self.cache is not None:
            return self.cache.batches(**order)
        # One counter per run; the threads of the pipeline share it.
        read = partial(self.read, report_cut=CutTexts())
        return edit_batches(self.source, read, resolution=data.resolution, **order)

    def evaluators(self) -> Mapping[str, Evaluator]:
        """None: public training data has no judge that runs within a training step's time."""
        return {}

    def with_params(self, params: Params) -> Editor:
        """The editor in its present state, for evaluation and export. What training does not use is read here."""
        unused = {} if self.cache is None else precomputing_params(self.start, self.config.seed)
        return Editor(self.base, {**unused, **params})

    def export(self, params: Params, directory: Path) -> None:
        self.with_params(params).save(directory)
