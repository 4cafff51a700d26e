"""Jobs side by side: what is left to do is read from the files, whatever stopped the run before."""

import json
import sys
import textwrap

import pytest

from rewardedit_jax.shapes.processes import Job, last_lines, run_jobs, share_cores

# Stand-ins for the launchers, which write down how they were called.
TRAIN = """
    import json, pathlib, sys
    workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
    with (workdir.parent / "calls").open("a") as calls:
        calls.write("resume" * ("--resume" in sys.argv) or "train")
        calls.write(f" {sorted(p.name for p in workdir.iterdir()) if workdir.exists() else None}\\n")
    if "--fail" in sys.argv:
        print("out of cheese")
        sys.exit(3)
    if "--empty" in sys.argv:
        sys.exit(0)
    (workdir / "model").mkdir(parents=True)
    (workdir / "metrics.jsonl").write_text(json.dumps({"step": 5}) + "\\n")
    (workdir / "model" / "model_index.json").write_text("{}")
"""
EVALUATE = """
    import json, pathlib, sys
    output = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
    output.mkdir(exist_ok=True)
    with (output.parent / "calls").open("a") as calls:
        calls.write("evaluate\\n")
    (output / "result.json").write_text(json.dumps({"scenes": int(sys.argv[sys.argv.index("--count") + 1])}))
"""


@pytest.fixture
def make_job(tmp_path):
    launch = tmp_path / "launch"
    launch.mkdir()
    (launch / "train.py").write_text(textwrap.dedent(TRAIN))
    (launch / "evaluate.py").write_text(textwrap.dedent(EVALUATE))

    def make(name="a", *training, count=8):
        job = Job(name, tmp_path / name, launch, training, steps=5, count=count)
        job.directory.mkdir(exist_ok=True)
        return job

    return make


def calls(job):
    file = job.directory / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_trains_and_scores(make_job):
    jobs = [make_job(name) for name in "abc"]
    assert run_jobs(jobs, [(), ()]) == []
    for job in jobs:
        assert calls(job) == ["train None", "evaluate"]
        assert job.scored


def test_what_is_done_is_left_alone(make_job):
    job = make_job()
    run_jobs([job], [()])
    assert run_jobs([job], [()]) == []
    assert len(calls(job)) == 2


def test_other_number_of_scenes_scores_again_without_training(make_job):
    run_jobs([make_job()], [()])
    assert run_jobs([make_job(count=16)], [()]) == []
    assert calls(make_job()) == ["train None", "evaluate", "evaluate"]


def test_checkpoints_are_gone_on_from(make_job):
    job = make_job()
    (job.workdir / "checkpoints" / "300").mkdir(parents=True)
    assert run_jobs([job], [()]) == []
    assert calls(job) == ["resume ['checkpoints']", "evaluate"]


def test_training_stopped_before_its_first_checkpoint_starts_anew(make_job):
    job = make_job()
    (job.workdir / "checkpoints" / "300.orbax-checkpoint-tmp").mkdir(parents=True)
    (job.workdir / "metrics.jsonl").write_text('{"step": 25}\n')
    assert run_jobs([job], [()]) == []
    assert calls(job)[0] == "train None"


def test_a_failure_is_told_and_the_others_finish(make_job):
    bad, good = make_job("bad", "--fail"), make_job("good")
    assert run_jobs([bad, good], [()]) == [bad]
    assert good.scored
    assert last_lines(bad.log) == "out of cheese"


def test_success_without_a_model_is_a_failure(make_job):
    job = make_job("a", "--empty")
    assert run_jobs([job], [()]) == [job]
    assert calls(job) == ["train None"]


def test_progress_counts_logged_steps_and_survives_a_half_written_line(make_job):
    job = make_job()
    assert job.progress() == 0
    job.workdir.mkdir()
    (job.workdir / "metrics.jsonl").write_text('{"step": 2}\n{"step": 4, "lo')
    assert job.progress() == 2
    run_jobs([job], [()])
    assert job.progress() > 5


def test_result_that_another_version_of_the_job_left(make_job):
    job = make_job()
    job.evaluation.mkdir()
    (job.evaluation / "result.json").write_text(json.dumps({"scenes": 3}))
    assert job.next_command()[1].endswith("train.py")


def test_commands_run_in_this_python(make_job):
    assert make_job().next_command()[0] == sys.executable


@pytest.mark.parametrize(
    ("cores", "jobs", "slots"),
    [([0, 1], 6, [(0,), (1,)]), ([2, 3, 6, 7], 2, [(2, 6), (3, 7)]), ([0], 2, [(0,)]), ([4, 5], 1, [(4, 5)])],
)
def test_cores_are_shared_out(cores, jobs, slots):
    assert share_cores(cores, jobs) == slots
