"""Experiments: what each arm changes, and a comparison from its jobs to its files, without trainings."""

import json
from argparse import ArgumentParser
from functools import cache, reduce

import numpy as np
import pytest
from paths import ROOT

from rewardedit_jax.bases.stable_diffusion import recipe_reward
from rewardedit_jax.evaluation.experiments import comparison as module
from rewardedit_jax.evaluation.experiments.comparison import Comparison, JobsFailed, compare
from rewardedit_jax.evaluation.experiments.experiment import find_experiment, list_experiments
from rewardedit_jax.evaluation.experiments.reward_model_report import report_reward_models
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.params import abstract_params
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.scoring.edit_score import EditScore
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL, Result, held_out_scenes, score
from rewardedit_jax.shapes.experiment_command import add_experiment_arguments, described_comparison
from rewardedit_jax.shapes.experiments import EXPERIMENTS, MULTI_REWARD
from rewardedit_jax.shapes.scorer_benchmark import evaluate_scorer, held_out_groups
from rewardedit_jax.training.recipe import check_recipe, read_recipe
from rewardedit_jax.weights.files import write_json

CONFIGS = ROOT / "configs"
EDITOR, SCORER = f"{CONFIGS}/reward_ip2p.py:debug", f"{CONFIGS}/edit_reward.py:debug"
ABLATIONS, SCORERS = EXPERIMENTS["ablations"].arms, EXPERIMENTS["scorers"].arms
FIRST_PAPER = [f"table{number}" for number in (1, 2, *range(4, 12))]
SECOND_PAPER = [f"editreward_table{number}" for number in (4, 5, 7, 8)]


def test_every_table_has_an_experiment():
    assert list(EXPERIMENTS) == [*FIRST_PAPER, "ablations", "smartedit_table1", "readers", *SECOND_PAPER, "scorers"]
    for name in (*FIRST_PAPER, *SECOND_PAPER):
        assert name.removeprefix("editreward_") == EXPERIMENTS[name].table.replace(" ", "")
    listed = list_experiments(EXPERIMENTS)
    assert all(f"  {name} " in listed for name in EXPERIMENTS)
    with pytest.raises(ValueError, match=r"'table3'.*table1.*scorers"):
        find_experiment(EXPERIMENTS, "table3")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_all_arms_are_valid_recipes(name):
    """At full size, where the recipes are those of the experiments."""
    experiment = EXPERIMENTS[name]
    for arm in experiment.arms.values():
        config = read_recipe(f"{CONFIGS}/{arm.recipe or experiment.recipe}", (*arm.defaults, *arm.overrides))
        check_recipe(config, experiment.schema)
        assert config.init if not arm.trained else config.steps
        assert arm.starts_from is None or arm.starts_from in experiment.arms
    titles = [experiment.title(arm) for arm in experiment.arms]
    assert len(set(titles)) == len(titles)


def test_arms_of_one_name_are_one_training():
    """A comparison looks for the trainings of its neighbours by name; the start editor is none."""
    for kind in ("reward_ip2p.py:shapes", "edit_reward.py:shapes"):
        found = {}
        for experiment in (one for one in EXPERIMENTS.values() if one.recipe == kind):
            for name, arm in experiment.arms.items():
                assert found.setdefault(name, (arm.overrides, arm.defaults, arm.starts_from)) == (
                    arm.overrides, arm.defaults, arm.starts_from
                )  # fmt: skip


@cache
def reward_modules(arm):
    """Paths of the reward parameters of a small U-Net with the arm's reward condition."""
    config = read_recipe(EDITOR, ABLATIONS[arm].overrides)
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
    for arm in set(ABLATIONS) - {BASELINE, FULL}:
        assert reward_modules(arm), arm
        assert reward_modules(arm) <= full, arm
    assert reward_modules("attention") != reward_modules("addition")


@pytest.mark.parametrize("arm", ABLATIONS)
def test_an_editors_arm_changes_nothing_but_the_reward(arm):
    changed, plain = read_recipe(EDITOR, ABLATIONS[arm].overrides).to_dict(), read_recipe(EDITOR).to_dict()
    changed.pop("reward"), plain.pop("reward")
    assert changed == plain


def test_editors_arms_have_the_parts_of_their_names():
    for arm, source in (("scores", "scores"), ("feedback", "text")):
        assert read_recipe(EDITOR, ABLATIONS[arm].overrides).reward.sources == (source,)
    for arm in ("attention", "addition"):
        assert read_recipe(EDITOR, ABLATIONS[arm].overrides).reward.paths == (arm,)
    for arm in PERSPECTIVES:
        assert read_recipe(EDITOR, ABLATIONS[arm].overrides).reward.perspectives == (arm,)
    full = read_recipe(EDITOR, ABLATIONS[FULL].overrides).reward
    assert (full.sources, full.paths) == (("scores", "text"), ("attention", "addition"))
    assert full.perspectives == PERSPECTIVES


def test_scorers_rankings_are_short_and_gentle():
    for name, arm in SCORERS.items():
        config = read_recipe(SCORER, (*arm.defaults, *arm.overrides))
        expected = (4, 1e-3, "marked") if name == "ratings" else (1000, 1e-4, config.data.ties)
        assert (config.steps, config.optimizer.learning_rate, config.data.ties) == expected
    objectives = {name: read_recipe(SCORER, arm.overrides).objective.name for name, arm in SCORERS.items()}
    assert objectives == {
        "ratings": "reg_per_perspective",
        "strict": "uncertainty",
        "ties": "uncertainty",
        "probability": "negative_log_probability",
        "thurstone": "thurstone",
    }
    ties = [read_recipe(SCORER, SCORERS[name].overrides).data.ties for name in ("strict", "ties", "thurstone")]
    assert ties == ["strict only", "disentangle", "disentangle"]


@pytest.fixture
def make_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "available_slots", lambda jobs: [()])

    def make(name="table1", seeds=2, overrides=("--config.steps=7",), out="runs/first"):
        overrides = (f"--config.data.root={tmp_path}/data", *overrides)
        experiment = EXPERIMENTS[name]
        config = f"{CONFIGS}/{experiment.recipe.replace(':shapes', ':debug')}"
        return Comparison(experiment, config, overrides, seeds, 8, tmp_path / out, ROOT / "launch", "the command")

    return make


def test_jobs_cover_arms_and_seeds(make_comparison):
    jobs = list(make_comparison("ablations").jobs.values())
    assert len(jobs) == len({job.workdir for job in jobs}) == 2 * len(ABLATIONS)
    assert {job.steps for job in jobs} == {7}  # the override counts
    seeds = [next(word for word in job.train if "seed=" in word) for job in jobs[:: len(ABLATIONS)]]
    assert seeds == ["--config.seed=0", "--config.seed=1"]  # all arms of a seed first


def test_an_arm_may_have_a_recipe_of_its_own(make_comparison):
    comparison = make_comparison("readers", seeds=1, overrides=("--config.steps=7",))
    read, seen = (comparison.jobs[arm, 0].train for arm in ("text encoder", "language model"))
    assert read[1] == f"--config={comparison.launch.parent}/configs/reward_ip2p.py:shapes"
    assert seen[1] == f"--config={comparison.config}"
    about = comparison.about()["arms"]
    assert [arm.get("recipe") for arm in about] == ["reward_ip2p.py:shapes", None]


def test_files_of_editors_stay_where_finished_runs_have_them(make_comparison):
    comparison = make_comparison(seeds=1)
    job = comparison.jobs[BASELINE, 0]
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
    comparison = make_comparison("scorers", seeds=1)
    for name, job in zip(SCORERS, comparison.jobs.values(), strict=True):
        assert job.workdir == comparison.workdir / f"{name}-0"
        assert job.workdir not in job.log.parents  # train.py refuses a directory that is not empty
        job.model.parent.mkdir(parents=True)
        job.model.write_text("{}")
        assert job.next_command()[1:4] == [*job.evaluate[:2], "--model"]


def test_arms_differ_in_their_overrides_alone(make_comparison):
    plain, full = make_comparison(seeds=1).jobs.values()
    words = [word for word in plain.train if word not in full.train]
    assert words[0] == ABLATIONS[BASELINE].overrides[0]
    assert words[1:] == [str(plain.workdir)]


def test_rankings_start_from_ratings_of_the_same_seed(make_comparison):
    comparison = make_comparison("scorers", overrides=())
    assert list(comparison.jobs)[:2] == [("ratings", 0), ("strict", 0)]
    for seed in range(2):
        ranking, start = comparison.jobs["strict", seed], comparison.jobs["ratings", seed]
        assert ranking.after == start
        assert f"--config.init={start.workdir}" in ranking.train
        assert (ranking.steps, start.steps) == (1000, 4)


def test_overrides_of_the_comparison_win_over_defaults_of_an_arm(make_comparison):
    jobs = make_comparison("scorers").jobs.values()
    assert {job.steps for job in jobs} == {7}


def test_a_wrong_setting_of_any_arm_is_refused_before_the_first_training(make_comparison):
    with pytest.raises(ValueError, match=r"accumulate=0.*>= 1"):
        compare(make_comparison(overrides=("--config.accumulate=0",)))
    with pytest.raises(ValueError, match=r"objective.settings={'margin': 2\.0}"):
        compare(make_comparison("scorers", overrides=("--config.objective.settings.margin=2",)))


def test_overrides_that_define_arms_are_noted_or_refused(make_comparison):
    (note,) = make_comparison(overrides=("--config.steps=7", "--config.reward.layout=paper")).notes()
    assert "reward.layout=paper" in note
    assert note.endswith(f"{BASELINE}.")
    assert make_comparison().notes() == []
    for word in ("--config.seed=3", "--config.init=shapes_scorer"):
        with pytest.raises(ValueError, match=f"{word} has no effect"):
            make_comparison("editreward_table8", overrides=(word,)).notes()


def test_a_model_that_is_not_trained_is_evaluated_once(make_comparison):
    comparison = make_comparison("table8")
    assert [key for key in comparison.jobs if key[0] == "start"] == [("start", 0)]
    job = comparison.jobs["start", 0]
    assert (job.train, job.trained, job.evaluate[3]) == ((), True, "shapes")
    assert [len(of) for of in comparison.results().values()] == [1, 2, 2]


def finish(job, config):
    """What a training leaves behind."""
    job.model.parent.mkdir(parents=True)
    job.model.write_text("{}")
    (job.workdir / "config.json").write_text(json.dumps(config.to_dict(), default=str))


def test_a_training_of_a_neighbour_is_found_if_all_settings_are_equal(make_comparison):
    for job in make_comparison("table1").jobs.values():
        finish(job, read_recipe(EDITOR, job.train[2:-2]))
    other = make_comparison("table4", out="runs/second")
    for (arm, _), job in other.jobs.items():
        assert job.trained == (arm in (BASELINE, FULL))
        assert ("first" in job.workdir.parts) == job.trained
        assert "second" in job.result.parts
        assert str(job.workdir) in job.evaluate
        assert job.train[-1] == str(job.workdir)
    assert not any(job.trained for job in make_comparison("table4", out="elsewhere/second").jobs.values())
    longer = make_comparison("table4", out="runs/second", overrides=("--config.steps=8",))
    assert not any(job.trained for job in longer.jobs.values())


def test_an_evaluation_of_a_neighbour_is_found_if_its_benchmark_is_the_same(make_comparison):
    for job in make_comparison("table1", seeds=1).jobs.values():
        finish(job, read_recipe(EDITOR, job.train[2:-2]))
        job.result.parent.mkdir()
        job.result.write_text('{"count": 8}')
    assert all(job.done for job in make_comparison("table2", seeds=1, out="runs/second").jobs.values())
    (job,) = make_comparison("table9", seeds=1, out="runs/second").jobs.values()
    assert job.trained
    assert not job.done


def test_a_start_model_of_a_neighbour_is_the_init_of_its_followers(make_comparison):
    ratings = make_comparison("scorers", seeds=1).jobs["ratings", 0]
    finish(ratings, read_recipe(SCORER, ratings.train[2:-2]))
    jobs = make_comparison("editreward_table4", seeds=1, out="runs/second").jobs
    assert jobs["ratings", 0].workdir == ratings.workdir
    assert f"--config.init={ratings.workdir}" in jobs["shared", 0].train


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
    files = compare(make_comparison())
    tables = ["table.txt", "table.md", "table.json", "table.png"]
    assert [file.name for file in files] == [*tables, "grid.png", "curve.png"]
    assert all(file.is_file() for file in files)
    assert capsys.readouterr().out.endswith(files[0].read_text())
    assert "`the command`" in files[1].read_text()
    found = json.loads(files[2].read_text())
    assert (found["name"], found["table"], found["seeds"], found["count"]) == ("table1", "table 1", 2, 8)
    assert (found["recipe"], found["overrides"][1:]) == ("reward_ip2p.py:debug", ["--config.steps=7"])
    assert [(arm["name"], arm["steps"], len(arm["trainings"])) for arm in found["arms"]] == [
        (BASELINE, 7, 2), (FULL, 7, 2)
    ]  # fmt: skip
    assert {row["arm"] for row in found["rows"]} >= {BASELINE, FULL}
    assert {tuple(row["over"]) for row in found["differences"]} == {(BASELINE, "none")}
    assert all(job.done for job in make_comparison().jobs.values())


def test_a_result_of_other_texts_is_evaluated_again(make_comparison):
    """Results of earlier versions have `scenes` in place of `count`: their scores are not comparable."""
    job = make_comparison(seeds=1).jobs[FULL, 0]
    job.result.parent.mkdir(parents=True)
    for field, done in (("scenes", False), ("count", True)):
        job.result.write_text(json.dumps({field: 8}))
        assert job.done == done


def test_report_of_scorers(make_comparison, monkeypatch, capsys):
    groups = held_out_groups(8)
    outputs = np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float32)
    scores = [[EditScore(np.stack([output, output]), output) for output in group] for group in outputs]
    report = evaluate_scorer(scores, groups)
    monkeypatch.setattr(module, "run_processes", fake_run(lambda job: write_json(report.to_json(), job.result)))
    files = compare(make_comparison("scorers"))
    tables = ["table.txt", "table.md", "table.json", "table.png"]
    assert [file.name for file in files] == [*tables, "reliability.png"]
    assert capsys.readouterr().out.endswith(files[0].read_text())
    rows = json.loads(files[2].read_text())["rows"]
    titles = [EXPERIMENTS["scorers"].title(name) for name in SCORERS]
    assert list(dict.fromkeys(row["arm"] for row in rows)) == ["least change", "chance", *titles]
    (pairs,) = [100 * row.value for row in report.rows if row.measure == "scorer, pairs"]
    (found,) = [row["per_seed"] for row in rows if (row["arm"], row["measure"]) == ("ratings", "pairs")]
    assert found == pytest.approx([pairs, pairs])
    assert all(job.done for job in make_comparison("scorers").jobs.values())


def test_failed_jobs_are_named_with_their_logs(make_comparison, monkeypatch):
    def fail(jobs, slots):
        jobs[1].log.parent.mkdir(parents=True)
        jobs[1].log.write_text("much\nout of cheese\n")
        return [jobs[1]]

    monkeypatch.setattr(module, "run_processes", fail)
    with pytest.raises(JobsFailed, match=r"reward, seed 0(.|\n)*out of cheese"):
        compare(make_comparison())


def test_jobs_without_their_start_model_are_named(make_comparison, monkeypatch):
    monkeypatch.setattr(module, "run_processes", lambda jobs, slots: jobs[1:2])
    with pytest.raises(JobsFailed, match=r"strict, seed 0 .*ratings, seed 0"):
        compare(make_comparison("scorers"))


def test_a_directory_of_another_recipe_is_refused(make_comparison, monkeypatch):
    monkeypatch.setattr(module, "run_processes", lambda jobs, slots: [])
    with pytest.raises(FileNotFoundError):  # nothing was trained here, so there is nothing to report
        compare(make_comparison())
    for other in ({"overrides": ("--config.steps=8",)}, {"name": "scorers"}):
        with pytest.raises(ValueError, match=r"first holds .*steps=7"):
            compare(make_comparison(**other))


def test_a_directory_of_an_earlier_version_is_taken(make_comparison, monkeypatch):
    """Its record has the path of the recipe as it was given, and no experiment."""
    comparison = make_comparison()
    comparison.workdir.mkdir(parents=True)
    record = {"config": "configs/reward_ip2p.py:debug", "overrides": list(comparison.overrides)}
    (comparison.workdir / "comparison.json").write_text(json.dumps(record))
    monkeypatch.setattr(module, "run_processes", lambda jobs, slots: jobs)
    with pytest.raises(JobsFailed):
        compare(comparison)
    assert json.loads((comparison.workdir / "comparison.json").read_text())["experiment"] == "table1"


@pytest.mark.parametrize("content", [b"", bytes(20), b"[]", b"\xff"])
def test_a_damaged_record_is_set_aside(make_comparison, monkeypatch, content):
    monkeypatch.setattr(module, "run_processes", lambda jobs, slots: jobs)
    comparison = make_comparison()
    comparison.workdir.mkdir(parents=True)
    record = comparison.workdir / "comparison.json"
    record.write_bytes(content)
    with pytest.raises(JobsFailed):
        compare(comparison)
    assert "--config.steps=7" in json.loads(record.read_text())["overrides"]
    assert (comparison.workdir / "comparison.json.damaged1").read_bytes() == content


@pytest.mark.parametrize("config", ["reward_ip2p.py", "edit_reward.py:debug", "autoencoder.py:debug"])
def test_recipes_of_another_task_or_data_are_refused(config, tmp_path):
    a = parsed("table1", f"--recipe={CONFIGS}/{config}", f"--out={tmp_path}")
    with pytest.raises(ValueError, match=r"task='.*shapes_editing"):
        described_comparison(a, (), ROOT / "launch", "")


def parsed(*arguments):
    parser = ArgumentParser()
    add_experiment_arguments(parser)
    return parser.parse_args(arguments)


def option(job, name):
    """What a job gives for an option of its evaluation."""
    return job.evaluate[job.evaluate.index(name) + 1]


@pytest.fixture
def judged(tmp_path):
    """Arguments of a run on data of a user."""
    for name in ("{mine}", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "store.sqlite").touch()
    return (f"--data={tmp_path}/{{mine}}", "--benchmark=real_edit", f"--benchmark-data={tmp_path}/photos",
            "--judge=replay", f"--store={tmp_path}/store.sqlite", f"--out={tmp_path}/out")  # fmt: skip


@pytest.mark.parametrize("recipe", ["", ":debug"])
@pytest.mark.parametrize("name", [name for name, one in EXPERIMENTS.items() if one.paper == MULTI_REWARD])
def test_an_experiment_on_other_data(name, recipe, judged, tmp_path):
    file = f"{CONFIGS}/{EXPERIMENTS[name].recipe.partition(':')[0]}{recipe}"
    own = (f"--recipe={file}",) if recipe else ()
    described = described_comparison(parsed(name, *judged, *own), (), ROOT / "launch", "")
    assert described.config == file
    for job in described.jobs.values():
        hard = name == "table9"
        assert job.evaluate[1] == ("hard_edits" if hard else "real_edit")
        assert option(job, "--data") == f"{tmp_path}/" + ("{mine}" if hard else "photos")
        assert option(job, "--judge") == "replay"
        if job.train:
            data = read_recipe(described.config, job.train[2:-2]).data
            assert (data.name, data.root) == ("prepared", f"{tmp_path}/{{mine}}")


def test_arguments_of_an_endpoint_are_passed_on(judged):
    words = ("--base-url=http://localhost:8000/v1", "--budget=2.5", "--ask-again")
    job = described_comparison(parsed("table1", *judged, *words), (), ROOT / "launch", "").jobs[FULL, 0]
    assert (option(job, "--base-url"), option(job, "--budget")) == ("http://localhost:8000/v1", "2.5")
    assert job.evaluate.count("--wait") == job.evaluate.count("--ask-again") == 1
    assert "--retries" not in job.evaluate


def test_one_training_is_asked_for_several_rewards(judged):
    described = described_comparison(parsed("table6", *judged, "--seeds=2"), (), ROOT / "launch", "")
    trained = [job for job in described.jobs.values() if job.train]
    assert len(trained) == 2
    asked = described.jobs["asked 3", 1]
    assert asked.after == trained[1]
    assert asked.evaluate[-4:] == ("--reward", "3", "3", "3")
    assert str(trained[1].workdir) in asked.evaluate
    assert len({job.result for job in described.jobs.values()}) == 14


def test_hard_edits_are_of_the_training_data(judged, tmp_path):
    """The arm that trains is compared with the edits that the data have; both are judged."""
    overrides = ("--config.data.labels=rewards.jsonl",)
    described = described_comparison(parsed("table9", *judged, "--count=7"), overrides, ROOT / "launch", "")
    original, trained = described.jobs.values()
    assert not original.train
    assert "--targets" in original.evaluate
    assert "--model" not in original.evaluate
    assert str(trained.workdir) in trained.evaluate
    for job in (original, trained):
        assert (option(job, "--count"), option(job, "--labels")) == ("7", "rewards.jsonl")


def test_two_resolutions_and_existing_metrics(judged, tmp_path):
    described = described_comparison(parsed("table11", *judged), (), ROOT / "launch", "")
    sizes = [read_recipe(described.config, job.train[2:-2]).data.resolution for job in described.jobs.values()]
    assert (sizes, list(described.results())) == ([256, 512], ["256 pixels", "512 pixels"])
    described = described_comparison(parsed("table7", *judged, f"--weights={tmp_path}"), (), ROOT / "launch", "")
    job = described.jobs[FULL, 0]
    metrics = job.evaluate[job.evaluate.index("--metrics") + 1 :]
    assert metrics[:3] == ("clip_t", "clip_i_source", "fid_source")
    assert option(job, "--weights") == str(tmp_path)


def test_published_figures_of_magicbrush_need_no_judge(judged, tmp_path):
    data, _, photos, *_, out = judged
    words = (data, photos, out, "--judge=none", "--benchmark=magicbrush")
    evaluate = described_comparison(parsed("table2", *words), (), ROOT / "launch", "").jobs[FULL, 0].evaluate
    assert evaluate[1] == "magicbrush"
    assert "--store" not in evaluate
    assert "l1" in evaluate
    with pytest.raises(ValueError, match="table1 on real_edit needs a judge"):
        described_comparison(parsed("table1", *words[:-1], "--benchmark=real_edit"), (), ROOT / "launch", "")


def test_results_of_another_judge_are_refused(judged, monkeypatch):
    monkeypatch.setattr(module, "run_processes", lambda jobs, slots: jobs)
    monkeypatch.setattr(module, "available_slots", lambda jobs: [()])
    for judge, error in (
        ("--judge=replay", JobsFailed),
        ("--judge=replay", JobsFailed),
        ("--judge=openai", ValueError),
    ):
        with pytest.raises(error):
            compare(described_comparison(parsed("table1", *judged, judge), (), ROOT / "launch", ""))


def test_other_data_need_a_benchmark_and_an_experiment_of_editors(judged, tmp_path):
    with pytest.raises(ValueError, match=r"readers .* needs --data shapes"):
        described_comparison(parsed("readers", *judged), (), ROOT / "launch", "")
    (tmp_path / "store.sqlite").unlink()
    for name, arguments, fault in (
        ("table1", judged, r"no .*store\.sqlite"),
        ("table1", [judged[0], judged[-1]], r"--benchmark-data"),
        ("table1", judged[1:], r"belong to --data DIR"),
        ("table1", [*judged, "--benchmark=genai_bench"], r"genai_bench is of scorers"),
        ("editreward_table4", judged, r"editreward_table4 .* trains scorers: give --benchmark, one of genai_bench"),
        ("editreward_table8", [*judged, "--benchmark=aurora"], r"trains nothing"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=fault):
            described_comparison(parsed(name, *arguments), (), ROOT / "launch", "")


def test_an_experiment_of_scorers_on_other_data(tmp_path):
    """The arms without the regression that they start from in the shapes world; each starts from the recipe's model."""
    for name in ("{mine}", "votes"):
        (tmp_path / name).mkdir()
    words = (f"--data={tmp_path}/{{mine}}", "--benchmark=genai_bench", f"--benchmark-data={tmp_path}/votes",
             f"--out={tmp_path}/out")  # fmt: skip
    expected = {
        "editreward_table4": {"objective.name": {"reg", "uncertainty"}, "heads.aggregation": {"mean", "min", "sum"}},
        "editreward_table5": {"init": {f"{of}" for of in ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct",
                                                          "XiaomiMiMo/MiMo-VL-7B-SFT-2508")}},
        "editreward_table7": {"data.pairs": {0, 130_000}, "data.ties": {"strict only", "disentangle"}},
        "scorers": {"objective.name": {"uncertainty", "negative_log_probability", "thurstone"}},
    }  # fmt: skip
    for name, differing in expected.items():
        described = described_comparison(parsed(name, *words), (), ROOT / "launch", "")
        configs = [read_recipe(described.config, job.train[2:-2]) for job in described.jobs.values()]
        for field, values in differing.items():
            *sections, last = field.split(".")
            found = [reduce(lambda config, section: config[section], sections, config)[last] for config in configs]
            assert set(found) == values, (name, field)
        for job, config in zip(described.jobs.values(), configs, strict=True):
            assert (job.evaluate[1], option(job, "--pairs")) == ("genai_bench", f"{tmp_path}/votes")
            assert option(job, "--model") == str(job.workdir)
            assert (config.steps, config.data.root, job.after) == (25_000, f"{tmp_path}/{{mine}}", None)


def test_a_table_of_reward_models(tmp_path):
    row = {"measure": "accuracy without ties", "protocol": "sound", "of": "7 pairs"}
    files = {"one": [tmp_path / "a", tmp_path / "b"], "two": [tmp_path / "c"]}
    for file, value in zip((*files["one"], *files["two"]), (0.5, 0.7, None), strict=True):
        file.write_text(json.dumps({"title": "GenAI-Bench", "rows": [{**row, "value": value}]}))
    table, _ = report_reward_models(tmp_path, files, 0)
    name = "accuracy without ties, sound"
    assert table.line("one").values[name].per_seed == (0.5, 0.7)
    assert "0.6" in table.to_text()
    assert "–" in table.to_text()  # what is not defined is no zero
    assert "7 pairs" in table.to_text()


def test_the_arguments_of_the_command(tmp_path):
    described = described_comparison(parsed("table9", f"--out={tmp_path}"), ("--config.steps=1",), ROOT / "launch", "x")
    assert (described.experiment.name, described.seeds, described.count) == ("table9", 1, 500)
    assert (described.config, described.overrides) == (f"{CONFIGS}/reward_ip2p.py:shapes", ("--config.steps=1",))
    for name, answers in (("table1", "--answers=a"), ("editreward_table8", "--swapped=a")):
        with pytest.raises(ValueError, match=r"--answers.*editreward_table8"):
            described_comparison(parsed(name, answers, f"--out={tmp_path}"), (), ROOT / "launch", "")
