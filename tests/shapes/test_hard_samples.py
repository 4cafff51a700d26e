"""Hard training samples: which they are, and the report of made-up results."""

import numpy as np
import pytest

from rewardedit_jax.shapes.editor_benchmark import Result, score
from rewardedit_jax.shapes.examples import shapes_example
from rewardedit_jax.shapes.hard_samples import LIMIT, ORIGINAL, hard_samples, report_hard_samples

COUNT = 12


@pytest.fixture(scope="module")
def samples():
    return hard_samples(COUNT)


def test_hard_samples_are_the_first_training_examples_with_a_low_score(samples):
    examples = [shapes_example(i, "train") for i in range(int(samples[-1].key.rpartition("-")[2]) + 1)]
    hard = [example.key for example in examples if (example.scores <= LIMIT).any()]
    assert [sample.key for sample in samples] == hard
    assert len(examples) > COUNT


def test_the_report_pairs_edits_with_the_originals(samples, tmp_path):
    """An editor whose edits are ideal gains most where the original is hard."""
    pictures = {ORIGINAL: np.stack([s.edited for s in samples]), "5": np.stack([s.ideal for s in samples])}
    result = Result({label: score(found, samples) for label, found in pictures.items()}, pictures)
    result.save(tmp_path / "0", {})
    table, files = report_hard_samples(tmp_path, {"reward": [tmp_path / "0" / "result.json"]}, COUNT)
    assert [(line.arm, line.asked) for line in table.lines] == [
        (ORIGINAL, ""), ("reward", "5"), (ORIGINAL, f"score ≤ {LIMIT}"), ("reward", f"5; score ≤ {LIMIT}")
    ]  # fmt: skip
    overall, of_hard = table.lines[1].gains, table.lines[3].gains
    for i, name in enumerate(overall):
        gained = result.scores["5"][:, i] - result.scores[ORIGINAL][:, i]
        hard = np.array([sample.scores[i] <= LIMIT for sample in samples])
        assert overall[name].mean == pytest.approx(gained.mean(), abs=1e-4)
        assert of_hard[name].mean == pytest.approx(gained[hard].mean(), abs=1e-4)
        assert of_hard[name].mean > overall[name].mean > 0
    assert [file.name for file in files] == ["grid.png"]
