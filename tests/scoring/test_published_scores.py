"""What docs/scoring.md says about raw scores of the published scorer, recomputed from public scores."""

import json
import statistics

import pytest
from paths import ROOT

SHAREGPT, OPENGPT = "sharegpt4o_image_i2i_scored", "opengpt4o_image_editing_scored"


@pytest.fixture(scope="module")
def scores(shared_data):
    """The scores by the data set of the edit."""
    lines = (shared_data / "editreward_scores" / "test.jsonl").read_text("utf-8").splitlines()
    found = {SHAREGPT: [], OPENGPT: []}
    for line in lines:
        metadata = json.loads(line)["metadata"]
        found[metadata["source"]].append(metadata["edit_reward_score"])
    return {**found, "all": [*found[SHAREGPT], *found[OPENGPT]]}


def test_the_table_of_the_documentation(scores):
    """Number, minimum, quartiles and maximum in each row."""
    text = (ROOT / "docs" / "scoring.md").read_text("utf-8")
    rows = {"ShareGPT-4o-Image": SHAREGPT, "OpenGPT-4o-Image": OPENGPT, "both": "all"}
    for name, values in ((name, scores[key]) for name, key in rows.items()):
        quantiles = (min(values), *statistics.quantiles(values, n=4, method="inclusive"), max(values))
        row = f"| {name} | {len(values):,} | {' | '.join(f'{q:.2f}' for q in quantiles)} |"
        assert row in text


def test_the_modes_are_the_two_data_sets(scores):
    assert max(scores[SHAREGPT]) < 0.86
    assert min(scores[OPENGPT]) > 1.43
    assert sum(score < 0 for score in scores["all"]) == 457
