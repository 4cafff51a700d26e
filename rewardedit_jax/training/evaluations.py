"""Evaluations while a model trains: what they record, and the one that a stopped run still owes."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from rewardedit_jax.params import Params
from rewardedit_jax.training.metrics import MetricWriter
from rewardedit_jax.training.task import Evaluator, Task


def find_evaluators(task: Task, evaluate_every: int) -> Mapping[str, Evaluator]:
    """The evaluators of a task by name, none if they are not asked for.

    Raises:
      ValueError: they are asked for, and the task has none.
    """
    evaluators = task.evaluators() if evaluate_every else {}
    if evaluate_every and not evaluators:
        raise ValueError(
            f"evaluate_every={evaluate_every}, but {type(task).__name__} has no evaluator for this data: set "
            "evaluate_every to 0 and use launch/evaluate.py on the trained model"
        )
    return evaluators


def evaluate(evaluators: Mapping[str, Evaluator], writer: MetricWriter, params: Params, step: int) -> None:
    """Run all evaluators, and write their numbers as NAME/METRIC, in one record, and their images."""
    numbers = {}
    for name, evaluator in evaluators.items():
        for key, value in evaluator(params, step).items():
            # Evaluators return numbers and images in one mapping.
            if np.ndim(value):
                writer.write_image(step, f"{name}/{key}", np.asarray(value))
            else:
                numbers[f"{name}/{key}"] = float(value)
    if numbers:
        writer.write_evaluation(step, numbers)


def is_recorded(evaluators: Mapping[str, Evaluator], writer: MetricWriter) -> bool:
    """Whether the step that a run goes on from has been evaluated; the same answer on all hosts.

    Not so if the run was killed while it evaluated, or asked to stop before it did.
    """
    answer = {name.split("/")[0] for name in writer.recorded}.issuperset(evaluators)
    # The records are on the first host alone, and evaluators are programs that all hosts take part in.
    return bool(multihost_utils.broadcast_one_to_all(np.array(answer))) if jax.process_count() > 1 else answer
