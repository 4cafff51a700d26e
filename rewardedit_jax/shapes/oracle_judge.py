"""The oracle of the shapes world as a judge of `launch/label.py`: it knows the ideal edit of every example."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from rewardedit_jax.judging.judges import Keep, Request
from rewardedit_jax.judging.questions import Question, ask_each
from rewardedit_jax.judging.store import Answer
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.examples import ShapesBuilder, ShapesExample, ShapesSource
from rewardedit_jax.shapes.oracle import judge


class OracleJudge:
    """Scores rounded to 0..5, as the data set records them, with the feedback of the data set."""

    def __init__(self, folder: str | Path):
        """Opens the training split of a folder that `examples.prepare_shapes` wrote."""
        self._examples = ShapesSource(folder, "train")
        # The three questions about one edit follow each other.
        self._judged = lru_cache(maxsize=4)(self._judge)

    def questions(self, repeat: int = 1, swap: bool = False) -> list[Question]:
        # The oracle gives the same score each time. Its version changes with the scores.
        return ask_each("oracle", f"shapes {ShapesBuilder.VERSION}", dict.fromkeys(PERSPECTIVES, ""))

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        for request in requests:
            example, scores = self._judged(request.index)
            if example.key != request.stored.key:
                raise ValueError(f"example {request.index} is {example.key}, not {request.stored.key}: other data.")
            n = PERSPECTIVES.index(request.question.perspective)
            verdict = {"score": round(scores[n]), "feedback": example.feedback[n]}
            keep(request, Answer(json.dumps(verdict), "stop"))

    def _judge(self, index: int) -> tuple[ShapesExample, tuple[float, ...]]:
        example = self._examples[index]
        return example, judge(example.edited, example.source, example.ideal, example.edit_type)[:3]
