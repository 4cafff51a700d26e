"""Where a published data set is: a local copy, or the Hugging Face hub at one commit."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging

_TIMEOUT = 10.0  # seconds; then the hub counts as out of reach
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class DatasetNotFound(FileNotFoundError):
    """There is no data set under that name; the message says how to get a local copy."""


class Found(NamedTuple):
    """A data set on this machine."""

    path: Path
    origin: dict[str, str]  # "hub" and "revision" of a download, the commit; {} for a local copy


def find_dataset(source: str, patterns: Sequence[str], revision: str | None = None) -> Found:
    """The local path of a data set.

    Args:
      source: a path, or the hub id `owner/name`, which is downloaded unless a path of this name exists.
      patterns: of the files to download.
      revision: a commit, tag or branch of the hub; None: the newest commit.
    Raises:
      DatasetNotFound: there is neither a path nor a data set on the hub, or the hub is out of reach.
      ValueError: a revision of a local copy.
    """
    path = Path(source).expanduser()
    if path.exists():
        if revision:
            raise ValueError(f"--revision {revision}: {path} is a local copy; a revision is of a hub id.")
        return Found(path, {})
    if not _HUB_ID.fullmatch(source):
        raise DatasetNotFound(f"there is no {path}; expected a file, a folder or a hub id owner/name.")
    return _download(source, patterns, revision)


def _download(repo: str, patterns: Sequence[str], revision: str | None) -> Found:
    # Imported here: the hub client takes a while to load, and local work never needs it.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The errors of the HTTP library, which differs between major versions of the client; OSError; impossible names.
    unreachable = (*HfHubHTTPError.__bases__, HFValidationError)
    files = {"repo_type": "dataset", "allow_patterns": list(patterns)}
    try:
        # The name of a branch would mean other files tomorrow, and on another machine.
        commit = HfApi().dataset_info(repo, revision=revision, timeout=_TIMEOUT).sha
        return Found(Path(snapshot_download(repo, revision=commit, **files)), {"hub": repo, "revision": commit})
    except unreachable as error:
        try:
            path = Path(snapshot_download(repo, revision=revision, local_files_only=True, **files))
        except (OSError, HFValidationError):
            raise DatasetNotFound(_out_of_reach(repo, revision, error)) from error
    logging.warning("the hub is out of reach: %s is read, an earlier download, which may lack files.", path)
    # The client names the folder of a download by its commit.
    commit = revision if revision and _COMMIT.fullmatch(revision) else path.name
    return Found(path, {"hub": repo, "revision": commit})


def _out_of_reach(repo: str, revision: str | None, error: Exception) -> str:
    # The first line: messages of the HTTP library go on with advice about its own settings.
    reason = next((line for line in str(error).splitlines() if line), "no reason given").rstrip(".")
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"there is no local folder {repo}, and the Hugging Face hub did not give it ({type(error).__name__}: {reason})"
        f": without network, copy its files here by other means (`hf download {repo} --repo-type dataset{pinned}` "
        "where there is network) and give their folder as --source."
    )
