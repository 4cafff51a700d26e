"""A comparison from its jobs to its files, with stand-ins for the trainings."""

import json

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from rewardedit_jax.shapes import comparison as module
from rewardedit_jax.shapes.arms import ARMS, BASELINE, FULL
from rewardedit_jax.shapes.comparison import Comparison, JobsFailed, compare, grid_of, table_of
from rewardedit_jax.shapes.editor_benchmark import held_out_scenes, score
from rewardedit_jax.shapes.results import Result

RECIPE = f"{ROOT}/configs/reward_ip2p.py:debug"


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(8)


def result_of(scenes, **pictures):
    stacks = {asked: np.stack([getattr(s, name) for s in scenes]) for asked, name in pictures.items()}
    return Result({asked: score(p, scenes) for asked, p in stacks.items()}, stacks)


@pytest.fixture
def results(scenes):
    plain = result_of(scenes, none="edited")
    rewarded = result_of(scenes, **{"5": "ideal", "3": "edited", "0": "source"})
    return {BASELINE: [plain, plain], FULL: [rewarded, rewarded]}


@pytest.fixture
def make_comparison(tmp_path):
    def make(*arms, seeds=2, overrides=("--config.steps=7",), config=RECIPE):
        overrides = (f"--config.data.root={tmp_path}/data", *overrides)
        return Comparison(config, overrides, arms or (BASELINE, FULL), seeds, 8, tmp_path / "runs", tmp_path / "launch")

    return make


def test_jobs_cover_arms_and_seeds(make_comparison):
    jobs = make_comparison(*ARMS).jobs
    assert len(jobs) == len({job.directory for job in jobs}) == 12
    assert {job.steps for job in jobs} == {7}  # the override counts
    assert [job.training[-1] for job in jobs[::6]] == ["--config.seed=0", "--config.seed=1"]  # all arms of a seed first


def test_arms_meet_the_same_overrides(make_comparison):
    plain, full = make_comparison(seeds=1).jobs
    assert [word for word in plain.training if word not in full.training] == list(ARMS[BASELINE])


def test_report(make_comparison, results, scenes, monkeypatch, capsys):
    comparison = make_comparison()
    monkeypatch.setattr(module, "available_slots", lambda jobs: [()])

    def pretend(jobs, slots):
        for job in jobs:
            arm = BASELINE if "without" in str(job.directory) else FULL
            results[arm][0].save(job.evaluation, {})
        return []

    monkeypatch.setattr(module, "run_jobs", pretend)
    files = compare(comparison)
    assert [file.name for file in files] == ["table.txt", "table.md", "table.json", "grid.png"]
    assert capsys.readouterr().out.endswith(files[0].read_text())
    told = json.loads(files[2].read_text())
    assert (told["scenes"], told["seeds"], told["baseline"]) == (8, 2, BASELINE)
    grid = grid_of({arm: r[0] for arm, r in results.items()}, scenes)
    np.testing.assert_array_equal(np.asarray(Image.open(files[3])), grid)


def test_table_compares_with_training_without_reward(results, scenes):
    table = table_of(results, scenes)
    rows = {(row.arm, row.asked): row for row in table.rows}
    best, plain = rows[FULL, "5"], rows[BASELINE, "none"]
    np.testing.assert_allclose(best.gain.mean, np.subtract(best.scores.mean, plain.scores.mean), atol=1e-6)
    assert rows["source, unchanged", ""].scores.mean == pytest.approx((0, 5, 5), abs=0.1)
    assert table.claims[0].arm == FULL
    assert "following" in table.claims[0].falls


def test_grid_of_one_arm_and_of_none_without_reward(results, scenes):
    both = grid_of({arm: r[0] for arm, r in results.items()}, scenes)
    only = grid_of({FULL: results[FULL][0]}, scenes)
    plain = grid_of({BASELINE: results[BASELINE][0]}, scenes)
    assert plain.shape[1] < only.shape[1] < both.shape[1]


def test_failed_jobs_are_told_with_their_logs(make_comparison, monkeypatch):
    def fail(jobs, slots):
        jobs[1].directory.mkdir(parents=True)
        jobs[1].log.write_text("much\nout of cheese\n")
        return [jobs[1]]

    monkeypatch.setattr(module, "run_jobs", fail)
    monkeypatch.setattr(module, "available_slots", lambda jobs: [()])
    with pytest.raises(JobsFailed, match=r"reward, seed 0 failed(.|\n)*out of cheese"):
        compare(make_comparison())


def test_results_of_another_recipe_are_not_mixed_in(make_comparison, monkeypatch):
    monkeypatch.setattr(module, "run_jobs", lambda jobs, slots: [])
    monkeypatch.setattr(module, "available_slots", lambda jobs: [()])
    with pytest.raises(FileNotFoundError):  # nothing was trained here, so there is nothing to report
        compare(make_comparison())
    with pytest.raises(ValueError, match="holds a comparison of"):
        compare(make_comparison(overrides=("--config.steps=8",)))


def test_other_worlds_have_no_oracle(make_comparison):
    with pytest.raises(ValueError, match="judges the shapes world only"):
        compare(make_comparison(config=RECIPE.removesuffix(":debug")))
