"""Jobs side by side: the files of a job alone decide what is left to do, whatever stopped the run before."""

import json
import os
import signal
import sys
import textwrap
import threading
from dataclasses import replace

import pytest

from rewardedit_jax.evaluation.experiments.processes import Job, last_lines, run_processes, share_cores

# Replacements of the launchers that record their calls.
TRAIN = """
    import json, pathlib, signal, sys, time
    workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
    with (workdir.parent / "calls").open("a") as calls:
        calls.write("resume" * ("--resume" in sys.argv) or "train")
        calls.write(f" {sorted(p.name for p in workdir.iterdir()) if workdir.exists() else None}\\n")
    if "--fail" in sys.argv:
        print("out of cheese")
        sys.exit(3)
    if "--compile" in sys.argv:
        print("compiling the training step", flush=True)
        time.sleep(1.5)
        print("compiled in 1 s")
    if "--wait" in sys.argv:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
        time.sleep(60)
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
    (output / "result.json").write_text(json.dumps({"count": int(sys.argv[sys.argv.index("--count") + 1])}))
"""


@pytest.fixture
def make_job(tmp_path):
    launch = tmp_path / "launch"
    launch.mkdir()
    (launch / "train.py").write_text(textwrap.dedent(TRAIN))
    (launch / "evaluate.py").write_text(textwrap.dedent(EVALUATE))

    def make(name="a", *training, count=8, after=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Job(
            name=name,
            workdir=folder / "training",
            model=folder / "training" / "model" / "model_index.json",
            result=folder / "evaluation" / "result.json",
            log=folder / "log.txt",
            train=(f"{launch}/train.py", *training, "--workdir", f"{folder}/training"),
            evaluate=(f"{launch}/evaluate.py", "--output", f"{folder}/evaluation", "--count", f"{count}"),
            steps=5,
            count=count,
            after=after,
        )

    return make


def calls(job):
    file = job.workdir.parent / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_trains_and_evaluates(make_job):
    jobs = [make_job(name) for name in "abc"]
    assert run_processes(jobs, [(), ()]) == []
    for job in jobs:
        assert calls(job) == ["train None", "evaluate"]
        assert job.done


def test_a_done_job_is_not_repeated(make_job):
    job = make_job()
    run_processes([job], [()])
    assert run_processes([job], [()]) == []
    assert len(calls(job)) == 2


def test_another_number_of_scenes_evaluates_again_without_training(make_job):
    run_processes([make_job()], [()])
    assert run_processes([make_job(count=16)], [()]) == []
    assert calls(make_job()) == ["train None", "evaluate", "evaluate"]


def test_a_damaged_result_is_evaluated_again(make_job):
    run_processes([make_job()], [()])
    for content in (b'{"count": ', bytes(20), b"[8]", b"\xff"):
        make_job().result.write_bytes(content)
        assert not make_job().done
    assert run_processes([make_job()], [()]) == []
    assert calls(make_job()) == ["train None", "evaluate", "evaluate"]


def test_training_resumes_from_a_checkpoint(make_job):
    job = make_job()
    (job.workdir / "checkpoints" / "300").mkdir(parents=True)
    assert run_processes([job], [()]) == []
    assert calls(job) == ["resume ['checkpoints']", "evaluate"]


def test_training_stopped_before_its_first_checkpoint_starts_anew(make_job):
    job = make_job()
    (job.workdir / "checkpoints" / "300.orbax-checkpoint-tmp").mkdir(parents=True)
    (job.workdir / "metrics.jsonl").write_text('{"step": 25}\n')
    assert run_processes([job], [()]) == []
    assert calls(job)[0] == "train ['checkpoints', 'metrics.jsonl']"  # train.py sets the records aside


def test_a_failed_job_is_returned_and_the_others_finish(make_job):
    bad, good = make_job("bad", "--fail"), make_job("good")
    assert run_processes([bad, good], [()]) == [bad]
    assert good.done
    assert last_lines(bad.log) == "out of cheese"


def test_success_without_a_model_is_a_failure(make_job):
    job = make_job("a", "--empty")
    assert run_processes([job], [()]) == [job]
    assert calls(job) == ["train None"]


def test_a_job_waits_for_the_model_that_it_starts_from(make_job):
    """The log of calls that both share shows the order; the free core is used by another job meanwhile."""
    first = make_job("a")
    second, other = make_job("b", after=first), make_job("c")
    assert not second.ready
    assert run_processes([second, first, other], [(), ()]) == []
    assert second.workdir.stat().st_mtime_ns > first.model.stat().st_mtime_ns
    assert calls(second) == ["train None", "evaluate"]


def test_a_job_whose_start_model_is_missing_is_returned_and_not_started(make_job):
    bad = make_job("bad", "--fail")
    follower = make_job("b", after=bad)
    assert run_processes([follower, bad], [(), ()]) == [bad, follower]
    assert calls(follower) == []


def test_a_model_that_needs_no_training_is_evaluated(make_job):
    job = replace(make_job(), train=())
    job.workdir.parent.mkdir(exist_ok=True)
    assert run_processes([job], [()]) == []
    assert calls(job) == ["evaluate"]
    assert job.done


def test_a_result_without_a_count_is_complete(make_job):
    job = replace(make_job(), count=None)
    assert not job.done
    job.result.parent.mkdir(parents=True)
    job.result.write_text('{"following": 0.5}')
    assert job.done


def test_progress_counts_logged_steps_and_ignores_damaged_lines(make_job):
    job = make_job()
    assert job.progress() == 0
    job.workdir.mkdir()
    (job.workdir / "metrics.jsonl").write_bytes(b'{"step": 2}\n' + bytes(20) + b'\n[4]\n{"step": 4, "lo')
    assert job.progress() == 2
    run_processes([job], [()])
    assert job.progress() > 5


def test_compilation_is_shown(make_job, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # every update is shown
    job = make_job("a", "--compile")
    run_processes([job], [()])
    assert "training 1, evaluating 0, done 0 of 1, compiling 1" in capsys.readouterr().err


def test_a_signal_ends_the_processes(make_job):
    job = make_job("a", "--wait")
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_processes([job], [()])
    assert "terminated" in last_lines(job.log)
    timer.join()


def test_a_result_of_another_size_without_a_model_trains(make_job):
    job = make_job()
    job.result.parent.mkdir()
    job.result.write_text(json.dumps({"count": 3}))
    assert job.next_command()[1].endswith("train.py")


def test_commands_run_in_this_python(make_job):
    assert make_job().next_command()[0] == sys.executable


@pytest.mark.parametrize(
    ("cores", "jobs", "slots"),
    [([0, 1], 6, [(0,), (1,)]), ([2, 3, 6, 7], 2, [(2, 6), (3, 7)]), ([0], 2, [(0,)]), ([4, 5], 1, [(4, 5)])],
)
def test_cores_are_shared_out(cores, jobs, slots):
    assert share_cores(cores, jobs) == slots
