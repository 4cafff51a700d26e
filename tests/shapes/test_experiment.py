"""Experiments: what each arm changes, and a comparison from its jobs to its files, without trainings."""

import json
from functools import cache

import numpy as np
import pytest
from paths import ROOT

from rewardedit_jax.bases.stable_diffusion import recipe_reward
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.params import abstract_params
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.scoring.edit_score import EditScore
from rewardedit_jax.shapes import experiment as module
from rewardedit_jax.shapes.arms import EDITORS, SCORERS
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL, Result, held_out_scenes, score
from rewardedit_jax.shapes.experiment import Comparison, JobsFailed, compare
from rewardedit_jax.shapes.scorer_benchmark import evaluate_scorer, held_out_groups
from rewardedit_jax.training.recipe import read_recipe

CONFIGS = ROOT / "configs"
EDITOR, SCORER = f"{CONFIGS}/reward_ip2p.py:debug", f"{CONFIGS}/edit_reward.py:debug"


@cache
def reward_modules(arm):
    """Paths of the reward parameters of a small U-Net with the arm's reward condition."""
    config = read_recipe(EDITOR, EDITORS.arms[arm].overrides)
    unet = UNetConfig(
        in_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
        sample_size=8,
        reward=recipe_reward(config.reward) if config.reward.layout else None,
    )
    return {name for name in abstract_params(UNet(unet)) if name.startswith("reward_")}


def test_baseline_has_no_reward_modules():
    assert reward_modules(BASELINE) == set()


def test_every_other_arm_has_modules_of_its_own():
    full = reward_modules(FULL)
    assert full
    for arm in set(EDITORS.arms) - {BASELINE, FULL}:
        assert reward_modules(arm), arm
        assert reward_modules(arm) <= full, arm
    assert reward_modules("attention") != reward_modules("addition")


@pytest.mark.parametrize("arm", EDITORS.arms)
def test_an_editors_arm_changes_nothing_but_the_reward(arm):
    changed, plain = read_recipe(EDITOR, EDITORS.arms[arm].overrides).to_dict(), read_recipe(EDITOR).to_dict()
    changed.pop("reward"), plain.pop("reward")
    assert changed == plain


def test_editors_arms_have_the_parts_of_their_names():
    for arm, source in (("scores", "scores"), ("feedback", "text")):
        assert read_recipe(EDITOR, EDITORS.arms[arm].overrides).reward.sources == (source,)
    for arm in ("attention", "addition"):
        assert read_recipe(EDITOR, EDITORS.arms[arm].overrides).reward.paths == (arm,)
    for arm in PERSPECTIVES:
        assert read_recipe(EDITOR, EDITORS.arms[arm].overrides).reward.perspectives == (arm,)
    full = read_recipe(EDITOR, EDITORS.arms[FULL].overrides).reward
    assert (full.sources, full.paths) == (("scores", "text"), ("attention", "addition"))
    assert full.perspectives == PERSPECTIVES


def test_scorers_rankings_are_short_and_gentle():
    for name, arm in SCORERS.arms.items():
        config = read_recipe(SCORER, (*arm.defaults, *arm.overrides))
        expected = (4, 1e-3, "marked") if name == "ratings" else (1000, 1e-4, config.data.ties)
        assert (config.steps, config.optimizer.learning_rate, config.data.ties) == expected
    objectives = {name: read_recipe(SCORER, arm.overrides).objective.name for name, arm in SCORERS.arms.items()}
    assert objectives == {
        "ratings": "reg_per_perspective",
        "strict": "uncertainty",
        "ties": "uncertainty",
        "probability": "negative_log_probability",
        "thurstone": "thurstone",
    }
    ties = [read_recipe(SCORER, SCORERS.arms[name].overrides).data.ties for name in ("strict", "ties", "thurstone")]
    assert ties == ["strict only", "disentangle", "disentangle"]


@pytest.fixture
def make_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "available_slots", lambda jobs: [()])

    def make(*arms, seeds=2, overrides=("--config.steps=7",), config=EDITOR):
        overrides = (f"--config.data.root={tmp_path}/data", *overrides)
        return Comparison(config, overrides, arms, seeds, 8, tmp_path / "runs", tmp_path / "launch")

    return make


def test_jobs_cover_arms_and_seeds(make_comparison):
    jobs = list(make_comparison().jobs.values())
    assert len(jobs) == len({job.workdir for job in jobs}) == 2 * len(EDITORS.arms)
    assert {job.steps for job in jobs} == {7}  # the override counts
    seeds = [next(word for word in job.train if "seed=" in word) for job in jobs[:: len(EDITORS.arms)]]
    assert seeds == ["--config.seed=0", "--config.seed=1"]  # all arms of a seed first


def test_files_of_editors_stay_where_finished_runs_have_them(make_comparison):
    comparison = make_comparison(BASELINE, seeds=1)
    (job,) = comparison.jobs.values()
    folder = comparison.workdir / "without-reward" / "seed0"
    assert (job.workdir, job.result, job.log) == (
        folder / "training",
        folder / "evaluation" / "result.json",
        folder / "log.txt",
    )
    assert job.model == folder / "training" / "model" / "model_index.json"
    assert job.evaluate[1:] == (
        *("shapes", "--model", str(folder / "training"), "--output", str(folder / "evaluation")),
        *("--count", "8"),
    )


def test_files_of_scorers_stay_where_finished_runs_have_them(make_comparison):
    """A directory of the former `make scorers` has trained models and no results."""
    comparison = make_comparison(config=SCORER, seeds=1)
    for name, job in zip(SCORERS.arms, comparison.jobs.values(), strict=True):
        assert job.workdir == comparison.workdir / f"{name}-0"
        assert job.workdir not in job.log.parents  # train.py refuses a directory that is not empty
        job.model.parent.mkdir(parents=True)
        job.model.write_text("{}")
        assert job.next_command()[1:4] == [*job.evaluate[:2], "--model"]


def test_arms_differ_in_their_overrides_alone(make_comparison):
    plain, full = make_comparison(BASELINE, FULL, seeds=1).jobs.values()
    words = [word for word in plain.train if word not in full.train]
    assert words[0] == EDITORS.arms[BASELINE].overrides[0]
    assert words[1:] == [str(plain.workdir)]


def test_rankings_start_from_ratings_of_the_same_seed(make_comparison):
    comparison = make_comparison("strict", config=SCORER, overrides=())
    assert list(comparison.jobs) == [("ratings", 0), ("strict", 0), ("ratings", 1), ("strict", 1)]
    for seed in range(2):
        ranking, start = comparison.jobs["strict", seed], comparison.jobs["ratings", seed]
        assert ranking.after == start
        assert f"--config.init={start.workdir}" in ranking.train
        assert (ranking.steps, start.steps) == (1000, 4)


def test_overrides_of_the_comparison_win_over_defaults_of_an_arm(make_comparison):
    jobs = make_comparison(config=SCORER).jobs.values()
    assert {job.steps for job in jobs} == {7}


def test_a_wrong_setting_of_any_arm_is_refused_before_the_first_training(make_comparison):
    with pytest.raises(ValueError, match=r"accumulate=0.*>= 1"):
        compare(make_comparison(overrides=("--config.accumulate=0",)))
    with pytest.raises(ValueError, match=r"objective.settings={'margin': 2\.0}"):
        compare(make_comparison("thurstone", config=SCORER, overrides=("--config.objective.settings.margin=2",)))


def test_an_unknown_arm_is_refused(make_comparison):
    with pytest.raises(ValueError, match=r"strict.*attention"):
        compare(make_comparison("strict"))


def fake_run(save):
    """A replacement of `run_processes` that saves a result for every job."""

    def run(jobs, slots):
        for job in jobs:
            save(job)
        return []

    return run


def test_report_of_editors(make_comparison, monkeypatch, capsys):
    """The titles of arms, and the results of their seeds, reach the report."""
    scenes = held_out_scenes(8)

    def save(job):
        labels, name = (("none",), "edited") if "without" in str(job.workdir) else (("5", "3", "0"), "ideal")
        pictures = np.stack([getattr(scene, name) for scene in scenes])
        scores = score(pictures, scenes)
        Result(dict.fromkeys(labels, scores), dict.fromkeys(labels, pictures)).save(job.result.parent, {})

    monkeypatch.setattr(module, "run_processes", fake_run(save))
    files = compare(make_comparison(BASELINE, FULL))
    assert [file.name for file in files] == ["table.txt", "table.md", "table.json", "grid.png", "curve.png"]
    assert capsys.readouterr().out.endswith(files[0].read_text())
    table = json.loads(files[2].read_text())
    assert (table["scenes"], table["seeds"], table["baseline"]) == (8, 2, BASELINE)
    assert all(job.done for job in make_comparison(BASELINE, FULL).jobs.values())


def test_a_result_of_other_texts_is_evaluated_again(make_comparison):
    """Results of earlier versions have `scenes` in place of `count`: their scores are not comparable."""
    (job,) = make_comparison(FULL, seeds=1).jobs.values()
    job.result.parent.mkdir(parents=True)
    for field, done in (("scenes", False), ("count", True)):
        job.result.write_text(json.dumps({field: 8}))
        assert job.done == done


def test_report_of_scorers(make_comparison, monkeypatch, capsys):
    groups = held_out_groups(8)
    outputs = np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float32)
    scores = [[EditScore(np.stack([output, output]), output) for output in group] for group in outputs]
    report = evaluate_scorer(scores, groups)
    monkeypatch.setattr(module, "run_processes", fake_run(lambda job: module.write_json(report.to_json(), job.result)))
    files = compare(make_comparison(config=SCORER))
    assert [file.name for file in files] == ["table.txt", "table.json", "reliability.png"]
    assert capsys.readouterr().out.endswith(files[0].read_text())
    table = json.loads(files[1].read_text())
    assert table["groups"] == 8
    titles = [arm.title or name for name, arm in SCORERS.arms.items()]
    assert list(table["percent"]) == [*titles, "least change", "chance"]
    (pairs,) = [100 * row.value for row in report.rows if row.measure == "scorer, pairs"]
    assert table["percent"]["ratings"]["pairs"] == pytest.approx([pairs, pairs])
    assert all(job.done for job in make_comparison(config=SCORER).jobs.values())


def test_failed_jobs_are_named_with_their_logs(make_comparison, monkeypatch):
    def fail(jobs, slots):
        jobs[1].log.parent.mkdir(parents=True)
        jobs[1].log.write_text("much\nout of cheese\n")
        return [jobs[1]]

    monkeypatch.setattr(module, "run_processes", fail)
    with pytest.raises(JobsFailed, match=r"reward, seed 0(.|\n)*out of cheese"):
        compare(make_comparison(BASELINE, FULL))


def test_jobs_without_their_start_model_are_named(make_comparison, monkeypatch):
    monkeypatch.setattr(module, "run_processes", lambda jobs, slots: jobs[1:2])
    with pytest.raises(JobsFailed, match=r"strict, seed 0 .*ratings, seed 0"):
        compare(make_comparison("strict", config=SCORER))


def test_a_directory_of_another_recipe_is_refused(make_comparison, monkeypatch):
    monkeypatch.setattr(module, "run_processes", lambda jobs, slots: [])
    with pytest.raises(FileNotFoundError):  # nothing was trained here, so there is nothing to report
        compare(make_comparison())
    for other in ({"overrides": ("--config.steps=8",)}, {"config": SCORER}):
        with pytest.raises(ValueError, match=r"runs holds .*steps=7"):
            compare(make_comparison(**other))


@pytest.mark.parametrize("content", [b"", bytes(20), b"[]", b"\xff"])
def test_a_damaged_record_is_set_aside(make_comparison, monkeypatch, content):
    monkeypatch.setattr(module, "run_processes", lambda jobs, slots: jobs)
    comparison = make_comparison()
    comparison.workdir.mkdir()
    record = comparison.workdir / "comparison.json"
    record.write_bytes(content)
    with pytest.raises(JobsFailed):
        compare(comparison)
    assert "--config.steps=7" in json.loads(record.read_text())["overrides"]
    assert (comparison.workdir / "comparison.json.damaged1").read_bytes() == content


@pytest.mark.parametrize("config", ["reward_ip2p.py", "edit_reward.py", "autoencoder.py:debug"])
def test_recipes_without_an_oracle_are_refused(make_comparison, config):
    with pytest.raises(ValueError, match=r"task='.*shapes_editing"):
        compare(make_comparison(config=f"{CONFIGS}/{config}"))
