"""Which steps end a run because loss, gradients or parameters are not finite, and what is said of them."""

import math
from typing import Any

import jax
from absl import logging

from rewardedit_jax.training.inventory import path_name

_MAX_SKIPPED = 25  # steps in a row; a run that skips more has no use
_JUDGED = {"loss": "loss", "gradient norm": "grad_norm", "parameter norm": "param_norm"}
_POSITIONS = {"gradient": "broken_gradient", "parameter": "broken_parameter"}  # of the first array that is not finite


class FiniteCheck:
    """Judges each step by its metrics, which the host reads while the next step runs: no device waits for the check.

    Args:
      skip: whether steps are skipped whose loss or gradients are not finite (`train_step`).
      params: the trained parameters, for their names.
    """

    def __init__(self, skip: bool, params: Any):
        self._skip = skip
        self._paths = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        self._skipped = 0  # steps in a row

    def fault(self, n: int, numbers: dict[str, float]) -> str | None:
        """Why step n has to end the run, in a line; None if it has not.

        A state that is not finite has then been made, but not yet saved.

        Args:
          numbers: the metrics of the step; the positions of broken arrays are removed.
        """
        positions = {kind: int(numbers.pop(name)) for kind, name in _POSITIONS.items()}
        if all(math.isfinite(numbers[name]) for name in _JUDGED.values()):
            self._skipped = 0
            return None
        self._skipped += 1
        # Parameters change in steps that are taken: no later step can mend them.
        skips = self._skip and math.isfinite(numbers["param_norm"])
        if skips and self._skipped < _MAX_SKIPPED:
            logging.warning("step %d is skipped: loss %g, gradient norm %g", n, numbers["loss"], numbers["grad_norm"])
            return None
        others = {name: x for name, x in numbers.items() if name not in _JUDGED.values() and not math.isfinite(x)}
        values = {word: numbers[name] for word, name in _JUDGED.items()} | others
        found = [f"{word} {value}" for word, value in values.items()]
        found += [f"the first {kind} that is not finite is {self._paths[i]}" for kind, i in positions.items() if i >= 0]
        found += [f"{self._skipped} steps in a row were skipped"] if skips else []
        return ", ".join(found)
