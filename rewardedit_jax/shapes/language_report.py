"""How well the shapes world's language model sees: right answers to held-out questions, by kind, and without sight."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rewardedit_jax.data.smartedit_prompts import NO_TARGET
from rewardedit_jax.params import Params
from rewardedit_jax.shapes.packed_conversations import NO_KIND
from rewardedit_jax.shapes.scene import Split
from rewardedit_jax.shapes.visual_questions import KINDS
from rewardedit_jax.training.task import Evaluator


class AnsweringTask(Protocol):
    """The part of a task that is evaluated."""

    batch: Callable[..., Any]
    answer: Callable[[Params, Any], tuple[Float[Array, "b p n"], Float[Array, "b m q d"]]]
    text_states: Callable[[Params, Any], Float[Array, "b m q d"]]


def language_evaluator(task: AnsweringTask, pictures: int = 256, split: Split = "test") -> Evaluator:
    """Shares of right answers, by the kind of question, and how much of the text encoder the Q-Former explains.

    Scenes have held-out combinations of form, color and background; instructions are held-out edits. An answer is right
    if all of its ids are. The name with "_blind" is the same model's share on the same questions about other pictures.
    """
    batch = task.batch(range(pictures), split)
    blind = batch.replace(pixels=np.roll(batch.pixels, 1, axis=0))
    measure = jax.jit(lambda params, batch: _measure(task, params, batch))

    def evaluate(params: Mapping[str, Any], step: int) -> dict[str, float]:
        right, explained = jax.device_get(measure(params, batch))
        shares = shares_by_kind(right, batch.rows)
        without = shares_by_kind(jax.device_get(measure(params, blind))[0], batch.rows)
        return {**shares, **{f"{kind}_blind": share for kind, share in without.items()}, "alignment": explained}

    return evaluate


def _measure(task: AnsweringTask, params: Params, batch: Any) -> tuple[Bool[Array, "b p"], Float[Array, ""]]:
    """Whether each id of an answer is the most likely one, and the explained share of the text states' variance."""
    logits, queries = task.answer(params, batch)
    wanted = task.text_states(params, batch)
    around = jnp.mean((wanted - wanted.mean(axis=(0, 1))) ** 2)
    right = (logits.argmax(-1) == batch.rows.targets) | (batch.rows.targets == NO_TARGET)
    return right, 1 - jnp.mean((queries - wanted) ** 2) / around


def shares_by_kind(right: Bool[np.ndarray, "b p"], rows: Any) -> dict[str, float]:
    """Kind of question → share of the questions with right answers; spaces in names are underscores."""
    segments: Int[np.ndarray, "b p"] = rows.segments[:, -right.shape[1] :]
    counted: dict[int, list[bool]] = {}
    for number in range(rows.kinds.shape[1]):
        correct = (right | (segments != number + 1)).all(axis=1)
        for kind, is_right in zip(rows.kinds[:, number], correct, strict=True):
            counted.setdefault(int(kind), []).append(bool(is_right))
    found = {KINDS[kind]: answers for kind, answers in sorted(counted.items()) if kind != NO_KIND}
    return {kind.replace(" ", "_"): float(np.mean(answers)) for kind, answers in found.items()}
