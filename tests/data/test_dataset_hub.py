"""Finding a data set: local copies, and the hub with and without network, at one commit."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
from hub_errors import unreachable
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from made_sets import command, make

from rewardedit_jax.data.dataset_hub import DatasetNotFound, find_dataset

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """A hub with a snapshot folder for each commit; records what is asked of it."""
    state = SimpleNamespace(newest=OLD, error=None, root=tmp_path / "hub", cached=set(), asked=[])

    class Api:
        def dataset_info(self, repo, revision, timeout):
            assert 0 < timeout <= 30
            if state.error:
                raise state.error
            return SimpleNamespace(sha={None: state.newest, "main": state.newest}.get(revision, revision))

    def download(repo, repo_type, revision, allow_patterns, local_files_only=False):
        assert repo_type == "dataset"
        state.asked.append((repo, revision, tuple(allow_patterns), local_files_only))
        commit = state.newest if revision is None else revision
        if local_files_only and commit not in state.cached:
            raise LocalEntryNotFoundError("nothing cached")
        return str(state.root / commit)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return state


def plan(folder):
    return json.loads((folder / "magicbrush-train.plan.json").read_text())


def test_a_local_copy_needs_no_hub(fake_hub, tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = find_dataset("owner/name", ["*"])
    assert (found.path.absolute(), found.origin) == (tmp_path / "owner" / "name", {})
    assert fake_hub.asked == []
    with pytest.raises(ValueError, match="--revision main"):
        find_dataset("owner/name", ["*"], "main")


@pytest.mark.parametrize("source", ["/nowhere/set", "./nowhere", "no such thing", "name", "a/b/c"])
def test_what_is_no_hub_id_is_a_missing_path(fake_hub, source):
    with pytest.raises(DatasetNotFound, match=r"there is no .* hub id owner/name"):
        find_dataset(source, ["*"])
    assert fake_hub.asked == []


def test_the_newest_commit_is_resolved_once(fake_hub):
    found = find_dataset("owner/name", ["*.parquet"])
    assert found.origin == {"hub": "owner/name", "revision": OLD}
    assert found.path == fake_hub.root / OLD
    assert fake_hub.asked == [("owner/name", OLD, ("*.parquet",), False)]
    assert find_dataset("owner/name", ["*"], NEW).origin["revision"] == NEW


def test_a_run_goes_on_with_its_commit(fake_hub, tmp_path):
    for commit in (OLD, NEW):
        make("magicbrush", fake_hub.root / commit)
    arguments = ["--source", "owner/name", "--out", tmp_path / "out", "--per-shard", 1]
    command("magicbrush", *arguments, "--shard", "1/2")
    fake_hub.newest = NEW
    command("magicbrush", *arguments, "--shard", "2/2")
    command("magicbrush", *arguments)
    assert {revision for _, revision, *_ in fake_hub.asked} == {OLD}
    assert (plan(tmp_path / "out")["hub"], plan(tmp_path / "out")["revision"]) == ("owner/name", OLD)
    with pytest.raises(ValueError, match=f"revision: '{OLD}' there, '{NEW}' now"):
        command("magicbrush", *arguments, "--revision", NEW)
    with pytest.raises(ValueError, match="hub: 'owner/name' there, None now"):
        command("magicbrush", "--source", fake_hub.root / OLD, *arguments[2:])


def test_parts_of_two_commits_are_not_merged(fake_hub, tmp_path):
    for commit, part in ((OLD, "1/2"), (NEW, "2/2")):
        make("magicbrush", fake_hub.root / commit)
        fake_hub.newest = commit
        out = tmp_path / "parts" / part[0]
        command("magicbrush", "--source", "owner/name", "--out", out, "--per-shard", 1, "--shard", part)
    parts = sorted((tmp_path / "parts").iterdir())
    with pytest.raises(ValueError, match=f"revision: '{NEW}' there, '{OLD}' now"):
        command("magicbrush", "--out", tmp_path / "out", "--merge", *parts)


@pytest.mark.parametrize("error", unreachable(), ids=lambda error: type(error).__name__)
def test_without_network_the_message_says_what_to_do(fake_hub, error):
    fake_hub.error = error
    with pytest.raises(DatasetNotFound) as told:
        find_dataset("owner/name", ["*"], "v1")
    message = str(told.value)
    assert f"({type(error).__name__}: {str(error).splitlines()[0].rstrip('.')})" in message
    assert "hf download owner/name --repo-type dataset --revision v1" in message
    assert "give their folder as --source" in message
    assert "\n" not in message


@pytest.mark.parametrize("revision", [None, OLD])
def test_without_network_an_earlier_download_is_taken(fake_hub, caplog, revision):
    fake_hub.error, fake_hub.cached = OfflineModeIsEnabled("HF_HUB_OFFLINE is set"), {OLD}
    found = find_dataset("owner/name", ["*"], revision)
    assert (found.path, found.origin["revision"]) == (fake_hub.root / OLD, OLD)
    assert "may lack files" in caplog.text


def test_the_real_client_takes_an_earlier_download(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "datasets--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(OLD)
    (folder / "snapshots" / OLD).mkdir(parents=True)
    for revision in (None, OLD, "main"):
        found = find_dataset("owner/name", ["*.parquet"], revision)
        assert (found.path, found.origin["revision"]) == (folder / "snapshots" / OLD, OLD)
    with pytest.raises(DatasetNotFound, match="OfflineModeIsEnabled"):
        find_dataset("owner/other", ["*"])


@pytest.mark.parametrize("name", ["a--b/c", "a/b.git"])
def test_names_that_the_hub_does_not_allow_are_told(name):
    with pytest.raises(DatasetNotFound, match="HFValidationError"):
        find_dataset(name, ["*"])
