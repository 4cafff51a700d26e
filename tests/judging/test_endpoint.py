"""The endpoint judge against a server on 127.0.0.1 that misbehaves in every way."""

import random
import resource
import time
import traceback
from collections import Counter

import pytest
from judged_edits import read_lines, write_edits
from loopback_endpoint import SLOW, endpoint, verdict

from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.judging.costs import Budget, BudgetReached, Prices
from rewardedit_jax.judging.endpoint import EndpointJudge
from rewardedit_jax.judging.images import ImageSettings
from rewardedit_jax.judging.labelling import ask, summarize, write_labels
from rewardedit_jax.judging.plan import Plan
from rewardedit_jax.judging.rubrics import read_rubrics
from rewardedit_jax.judging.store import Store
from rewardedit_jax.judging.transport import Endpoint, RunStopped
from rewardedit_jax.reward import PERSPECTIVES

SECRET = "sk-very-secret-0123456789"
# What a server does to an item → how the item ends.
PERMANENT = {
    "429": "rate limited", "500": "server error", "close": "no connection", "silence": "timeout",
    "not json": "bad response", "400": "rejected", "cut": "truncated", "keys": "wrong keys", "seven": "out of range",
    "empty": "empty", "refusal": "refused", "field": "refused", "filter": "refused",
}  # fmt: skip
PASSING = ("429", "429after", "500", "close", "silence", "not json")  # faults of the first attempt only


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def judge_of(url, prices=None, limit=None, **settings):
    settings = {"timeout": 1.0, "retries": 2} | settings
    made = Endpoint("model", url, **settings)
    return EndpointJudge(made, read_rubrics(), ImageSettings(), Budget(prices, limit, made.max_tokens))


def run(folder, file, judge, **options):
    plan = Plan.make(open_edits(file), judge.questions(**options))
    with Store(folder / "labels.sqlite", create=True) as store:
        ask(plan, judge, store)
        return write_labels(plan, store, folder / "labels.jsonl")


def stored_text(folder):
    return b"".join(file.read_bytes() for file in folder.glob("labels*"))


def test_each_fault_ends_as_a_named_failure_or_an_answer(tmp_path):
    """Permanent faults get their name, passing ones are survived; the reasons add up to all items."""
    words = [*PERMANENT, "prose", "ok", "ok"]
    file = write_edits(tmp_path / "data", len(words) + 2)
    behaviour = {f"{i} following": [word] for i, word in enumerate(words)}
    behaviour |= {f"{i} quality": [word, "ok"] for i, word in enumerate(PASSING)}
    with endpoint(tmp_path / "server", behaviour) as server:
        summary = run(tmp_path, file, judge_of(server.url))
    lines = read_lines(tmp_path / "labels.jsonl")
    assert summary.reasons == Counter(PERMANENT.values())
    assert summary.answered + summary.failed == 3 * len(lines) == 3 * (len(words) + 2)
    assert summary.repaired == 1
    for line, word in zip(lines, words, strict=False):
        reasons = [(failure["perspective"], failure["reason"]) for failure in line["failures"]]
        assert reasons == ([("following", PERMANENT[word])] if word in PERMANENT else [])
        assert (line["scores"][0] is None) == (line["feedback"][0] is None) == (word in PERMANENT)
        assert None not in line["scores"][1:]


def test_the_label_is_what_the_judge_said(tmp_path):
    file = write_edits(tmp_path / "data", 2)
    with endpoint(tmp_path / "server") as server:
        run(tmp_path, file, judge_of(server.url))
    for i, line in enumerate(read_lines(tmp_path / "labels.jsonl")):
        assert line["key"] == f"{i}:{i}_b.png"
        assert line["feedback"] == [f"fault of {i} {name}" for name in PERSPECTIVES]
        assert line["scores"] == [float(verdict(f"{i} {name}").split()[1].strip(",")) for name in PERSPECTIVES]


@pytest.mark.slow
def test_a_thousand_items(tmp_path):
    """Every item has an end, within 1.3 × the time that the server takes, in a bounded memory."""
    rng, count = random.Random(0), 334
    items = [f"{i} {name}" for i in range(count) for name in PERSPECTIVES]
    faulty = rng.sample(items, 260)
    lasting = [word for word in PERMANENT if word not in PASSING]
    words = [[word, "slow"] for word in PASSING] + [[word] for word in [*lasting, "prose"]]
    behaviour = {item: words[i % len(words)] for i, item in enumerate(faulty)} | {"default": "slow"}
    # Faults of transport that do not pass cost all attempts: some, among the first items.
    behaviour |= {item: [word] for item, word in zip(items, PASSING, strict=False) if word != "429after"}
    file = write_edits(tmp_path / "data", count)
    with endpoint(tmp_path / "server", behaviour) as server:
        memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        summary = run(tmp_path, file, judge_of(server.url, timeout=3.0))
        taken = time.monotonic() - began
        requests = server.requests()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    asked = Counter(line["item"] for line in requests)
    assert set(items) == set(asked) | {item for item in items if behaviour.get(item) == ["silence"]}
    assert summary.answered + summary.failed == len(items)
    assert summary.reasons == Counter(
        PERMANENT[words[0]] for item, words in behaviour.items() if len(words) == 1 and words[0] in PERMANENT
    )
    silent = sum(3 if words == ["silence"] else words[0] == "silence" for words in behaviour.values())
    ideal = (sum(line["seconds"] for line in requests) + silent * 3.0) / 32
    print(f"{taken:.2f} s, ideal {ideal:.2f} s, ratio {taken / ideal:.2f}; memory grew by {grown / 1024:.1f} MiB")
    assert ideal > SLOW * len(items) / 40
    assert taken < 1.3 * ideal
    assert grown < 100 * 1024  # KiB


def test_retry_after_is_honoured(tmp_path):
    file = write_edits(tmp_path / "data", 1)
    with endpoint(tmp_path / "server", {"0 quality": ["429after", "ok"]}) as server:
        run(tmp_path, file, judge_of(server.url))
        first, second = (line["began"] for line in server.requests() if line["item"] == "0 quality")
    assert second - first >= 1.0


def test_a_refused_schema_is_left_out_from_then_on(tmp_path):
    file = write_edits(tmp_path / "data", 8)
    with endpoint(tmp_path / "server", {"default": "plain"}) as server:
        summary = run(tmp_path, file, judge_of(server.url, concurrency=2))
        assert summary.answered == 24
        assert len(server.requests()) <= 24 + 2  # as many as were under way


def test_stored_answers_are_not_asked_again(tmp_path):
    file = write_edits(tmp_path / "data", 3)
    behaviour = {"0 following": ["refusal"], "1 quality": ["500"], "2 quality": ["seven"]}
    with endpoint(tmp_path / "server", behaviour) as server:
        first = run(tmp_path, file, judge_of(server.url, retries=0))
        before = len(server.requests())
        second = run(tmp_path, file, judge_of(server.url, retries=0))
        again = server.requests()[before:]
    assert first == second
    assert [line["item"] for line in again] == ["1 quality"]  # a failure of transport only
    assert first.reasons == {"refused": 1, "server error": 1, "out of range": 1}


def test_ask_again_keeps_both_answers(tmp_path):
    file = write_edits(tmp_path / "data", 2)
    with endpoint(tmp_path / "server", {"0 following": ["refusal", "ok"]}) as server:
        judge = judge_of(server.url)
        assert run(tmp_path, file, judge).reasons == {"refused": 1}
        plan = Plan.make(open_edits(file), judge.questions())
        with Store(tmp_path / "labels.sqlite", create=True) as store:
            ask(plan, judge, store, ask_again=True)
            assert not summarize(plan, store).failed
            assert store.usage(plan.questions).answers == 7
        assert len(server.requests()) == 7


def test_repetitions_and_swapped_images(tmp_path):
    """Repetitions have seeds of their own; the images change places with their labels."""
    file = write_edits(tmp_path / "data", 1)
    with endpoint(tmp_path / "server") as server:
        run(tmp_path, file, judge_of(server.url), repeat=2, swap=True)
        asked = sorted((line["item"], line["seed"], line["first"].split()[0]) for line in server.requests())
    assert asked == sorted(
        (f"0 {name}", seed, first)
        for name in PERSPECTIVES
        for seed, first in ((0, "Source"), (1, "Source"), (0, "Edited"))
    )


def test_equal_edits_are_asked_once(tmp_path):
    file = write_edits(tmp_path / "data", 1)
    file.write_text(file.read_text() * 3)
    with endpoint(tmp_path / "server") as server:
        summary = run(tmp_path, file, judge_of(server.url))
        assert len(server.requests()) == 3
    lines = read_lines(tmp_path / "labels.jsonl")
    assert summary.answered == 9
    assert len({line["key"] for line in lines}) == 3
    assert lines[0]["scores"] == lines[1]["scores"] == lines[2]["scores"]


def test_unreadable_images_are_failures_by_name(tmp_path):
    file = write_edits(tmp_path / "data", 3)
    (tmp_path / "data" / "0_a.png").write_bytes(b"no image")
    (tmp_path / "data" / "1_b.png").unlink()
    with endpoint(tmp_path / "server") as server:
        summary = run(tmp_path, file, judge_of(server.url))
    assert summary.reasons == {"unreadable image": 6}
    assert "0_a.png" in summary.first[0]


@pytest.mark.parametrize(("word", "named"), [("401", "OPENAI_API_KEY"), ("404", "model"), ("quota", "used up")])
def test_what_concerns_all_items_ends_the_run(tmp_path, word, named):
    file = write_edits(tmp_path / "data", 40)
    behaviour = {"default": word} | {f"0 {name}": ["ok"] for name in PERSPECTIVES}
    with endpoint(tmp_path / "server", behaviour) as server:
        with pytest.raises(RunStopped, match=named):
            run(tmp_path, file, judge_of(server.url, concurrency=4))
        assert len(server.requests()) <= 8
    with Store(tmp_path / "labels.sqlite") as store:
        assert store.usage(store.questions()).answers == 3


def test_an_endpoint_that_is_down(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardedit_jax.judging.transport._PATIENCE_AT_START", 0.2)
    file = write_edits(tmp_path / "data", 4)
    with pytest.raises(RunStopped, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        run(tmp_path, file, judge_of("http://127.0.0.1:9/v1"))


def test_an_endpoint_that_answers_nothing(tmp_path):
    file = write_edits(tmp_path / "data", 40)
    with endpoint(tmp_path / "server", {"default": "500"}) as server, pytest.raises(RunStopped, match="HTTP 500"):
        run(tmp_path, file, judge_of(server.url, retries=0))


def test_the_budget_is_not_exceeded(tmp_path):
    """An answer costs 0.00105; the run stops before 0.05 is spent, and goes on with more."""
    file, prices = write_edits(tmp_path / "data", 40), Prices(1.0, 1.0)
    with endpoint(tmp_path / "server") as server:
        judge = judge_of(server.url, prices, 0.05)
        with pytest.raises(BudgetReached, match=r"0\.05"):
            run(tmp_path, file, judge)
        spent = 0.00105 * len(server.requests())
        assert 0.04 < spent <= 0.05
        assert judge.budget.spent == pytest.approx(spent)
        assert run(tmp_path, file, judge_of(server.url, prices, 1.0)).answered == 120
        assert len(server.requests()) == 120


def test_the_key_stays_secret(tmp_path, capfd, caplog):
    """The server sends the key back in errors and answers: no store, label, log or message has it."""
    file = write_edits(tmp_path / "data", 40)
    behaviour = {"0 following": ["echo"], "1 following": ["500"], "2 following": ["400"], "3 following": ["429"]}
    with endpoint(tmp_path / "server", behaviour) as server:
        run(tmp_path, file, judge_of(server.url, retries=0))
        for word in ("401", "404", "quota", "500"):
            (tmp_path / "server" / "behaviour.json").write_text("{}")
            with endpoint(tmp_path / word, {"default": word}) as broken, pytest.raises(RunStopped) as stopped:
                run(tmp_path / word, file, judge_of(broken.url, retries=0))
            assert SECRET not in "".join(traceback.format_exception(stopped.value))
    assert b"***" in stored_text(tmp_path)
    assert SECRET.encode() not in stored_text(tmp_path)
    output = capfd.readouterr()
    assert SECRET not in output.out + output.err + caplog.text


@pytest.mark.parametrize("key", ["sk-line\nbreak-0123", "sk-ключ-0123456789"])
def test_a_key_that_is_no_header(tmp_path, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(RunStopped, match="OPENAI_API_KEY") as stopped:
        Endpoint("model").key()
    assert key not in str(stopped.value)


def test_a_missing_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(RunStopped, match="OPENAI_API_KEY"):
        Endpoint("model", "https://user:password@example.com/v1?key=1").key()
    assert Endpoint("model", "http://127.0.0.1:8000/v1").key()
    assert Endpoint("model", "https://user:password@example.com/v1?key=1").shown == "https://example.com/v1"
