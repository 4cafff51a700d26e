"""The task of the shapes world's vision-language model, from which its SmartEdit starts.

SmartEdit starts from a LLaVA that can talk about images, and first aligns the Q-Former's output with the states that
CLIP's text encoder has for the same text (arXiv:2312.06739, section 3.4). Here both are learnt at once: image tower,
projection and language model from questions about pictures, the Q-Former from instructions, whose states in the text
encoder of a trained editor it is to give. The result is a complete SmartEdit with that editor's U-Net.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8
from ml_collections import ConfigDict

from rewardedit_jax.bases.reply_objective import token_errors
from rewardedit_jax.bases.smartedit import SmartEdit
from rewardedit_jax.data.clip_tokenizer import encode_texts
from rewardedit_jax.data.smartedit_prompts import NO_TARGET
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.models.clip_vision import normalise_pixels
from rewardedit_jax.params import Params
from rewardedit_jax.shapes import wording
from rewardedit_jax.shapes.examples import NAME
from rewardedit_jax.shapes.language_report import language_evaluator
from rewardedit_jax.shapes.packed_conversations import PackedRows, Prompt, make_prompt, pack, read_packed
from rewardedit_jax.shapes.render import render, to_uint8
from rewardedit_jax.shapes.scene import (
    EDIT_TYPES,
    SPLITS,
    Edit,
    Scene,
    Split,
    choose,
    holds_out_edit,
    sample_case,
    sample_edit,
)
from rewardedit_jax.shapes.visual_questions import KINDS, visual_questions
from rewardedit_jax.training import recipe
from rewardedit_jax.training.recipe_check import check_section
from rewardedit_jax.training.task import Evaluator

# Part of the random seed, as in `preferences`, `asked` and `questions`.
_STREAM = 4


class LanguageData(recipe.Section):
    name: Literal[NAME]  # pictures and questions are drawn in every step; nothing is stored
    instructions: recipe.Count  # for each picture; they are the first of its prompts
    tokens: recipe.Count  # of all prompts about a picture; of the questions, as many as fit


class LanguageRecipe(recipe.ModelRecipe):
    """All settings of the language model's training."""

    network: dict[str, Any]  # networks that are trained from scratch, as of a SmartEdit
    data: LanguageData
    alignment_weight: recipe.NotNegative  # of the squared error of the Q-Former, beside the cross-entropy of answers

    def __post_init__(self):
        super().__post_init__()
        check_section(self.network, SmartEdit.network_settings, "network")


@flax.struct.dataclass
class LanguageBatch:
    """Pictures, and what is said about them."""

    pixels: Any  # uint8[b, h, w, 3]
    rows: PackedRows  # instructions and questions
    instruction_ids: Any  # int32[b, m, t]: the instructions as tokens of the text encoder


class ShapesLanguageTask:
    """Trains what a SmartEdit reads its requests with."""

    schema: ClassVar[type[recipe.TrainingRecipe]] = LanguageRecipe

    def __init__(self, config: ConfigDict):
        recipe.check_recipe(config, self.schema)
        self.config, self.trainable = config, tuple(config.trainable)
        # No editing is trained: the editor keeps the noise process of `init`, and has no reward modules.
        editor = {**config.to_dict(), "schedule": {}, "reward": {"layout": ""}}
        self.start = SmartEdit.start(ConfigDict(editor))
        self.base = self.start.base
        self.partition_rules = self.base.partition_rules

    def abstract_params(self) -> Params:
        return self.start.abstract_params()

    def init(self, rng: Key[Array, ""], wanted: Callable[[str], bool] | None = None) -> Params:
        return self.start.init(rng, wanted)

    def batches(self, start: int) -> Iterator[LanguageBatch]:
        size = self.config.batch_size * self.config.accumulate
        share = size // jax.process_count()
        for step in count(start):
            first = step * size + jax.process_index() * share
            yield self.batch(range(first, first + share), "train", self.config.seed)

    def batch(self, numbers: Sequence[int], split: Split, seed: int = 0) -> LanguageBatch:
        """The examples of these numbers, each a function of its number, the split and the seed."""
        tokenizer, data = self.base.language_tokenizer, self.config.data
        pictures, instructions, rows = zip(*(self._example(number, split, seed) for number in numbers), strict=True)
        packed = pack(tokenizer, rows, data.tokens, most=data.instructions + len(KINDS))
        ids = [encode_texts(self.base.tokenizer, texts).ids for texts in instructions]
        return LanguageBatch(np.stack(pictures), packed, np.stack(ids))

    def _example(
        self, number: int, split: Split, seed: int
    ) -> tuple[UInt8[np.ndarray, "h w 3"], list[str], list[Prompt]]:
        """A picture, instructions, and the prompts about it: first the instructions, then questions."""
        rng = np.random.default_rng([seed, SPLITS.index(split), number, _STREAM])
        scene, edit = sample_case(rng, split)
        edits = [edit, *(_another_edit(rng, scene, split) for _ in range(self.config.data.instructions - 1))]
        instructions = [choose(rng, wording.instructions(edit)) for edit in edits]
        prompt = partial(make_prompt, self.base.language_tokenizer)
        questions = visual_questions(rng, scene, split)
        asked = [prompt(question.text, question.answer, KINDS.index(question.kind)) for question in questions]
        return to_uint8(render(scene)), instructions, [*map(prompt, instructions), *asked]

    def loss(
        self, params: Params, batch: LanguageBatch, rng: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], Mapping[str, Float[Array, " b"]]]:
        logits, queries = self.answer(params, batch)
        answers = answer_loss(logits, batch.rows.targets)
        alignment = jnp.mean((queries - self.text_states(params, batch)) ** 2, axis=(1, 2, 3))
        loss = answers + self.config.alignment_weight * alignment
        return loss, {"answers": answers, "alignment": alignment}

    def answer(self, params: Params, batch: LanguageBatch) -> tuple[Float[Array, "b p n"], Float[Array, "b m q d"]]:
        """Logits of all ids behind the image, and the Q-Former's output for the instructions."""
        states = self.base.vision_encoder.apply({"params": params["vision_encoder"]}, normalise_pixels(batch.pixels))
        model, read = self.base.language_model, {"params": params["language_model"]}
        features = states.hidden[model.config.mm_vision_select_layer][:, 1:]  # without the class token
        hidden = model.apply(read, batch.rows, features, method=read_packed)
        at = batch.rows.reply_at + features.shape[1] - 1
        spoken = jax.vmap(lambda states, at: states[at])(hidden, at).astype(jnp.float32)
        queries = self.base.qformer.apply({"params": params["qformer"]}, spoken.reshape(-1, *spoken.shape[2:]))
        # An id is predicted from the state before it.
        before = hidden[:, -batch.rows.targets.shape[1] - 1 : -1]
        logits = model.apply(read, before, method="logits")
        return logits, queries.reshape(*spoken.shape[:2], *queries.shape[1:])

    def text_states(self, params: Params, batch: LanguageBatch) -> Float[Array, "b m q d"]:
        """What the Q-Former is to give: the text encoder's states of the instructions."""
        ids, encoder = batch.instruction_ids, self.base.text_encoder
        states = encoder.apply({"params": params["text_encoder"]}, ids.reshape(-1, ids.shape[-1])).last_hidden
        return states.reshape(*ids.shape[:2], *states.shape[1:])

    def evaluators(self) -> Mapping[str, Evaluator]:
        return {"language": language_evaluator(self)}

    def export(self, params: Params, directory: Path) -> None:
        Editor(self.base, params).save(directory)


def _another_edit(rng: np.random.Generator, scene: Scene, split: Split) -> Edit:
    """An edit of the scene that belongs to the split."""
    while True:  # the edit that was drawn with the scene is one
        edit = sample_edit(rng, scene, choose(rng, EDIT_TYPES))
        if holds_out_edit(scene, edit) == (split == "test"):
            return edit


def answer_loss(logits: Float[Array, "b p n"], targets: Int[Array, "b p"]) -> Float[Array, " b"]:
    """Mean cross-entropy of the ids that are predicted."""
    return token_errors(logits, targets).sum(1) / jnp.maximum((targets != NO_TARGET).sum(1), 1)
