"""Where a published data set is: a local copy, or the Hugging Face hub at one commit."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging

from rewardedit_jax.downloads import TIMEOUT, OutOfReach, download_or_earlier

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
    from huggingface_hub import HfApi, snapshot_download

    files = {"repo_type": "dataset", "allow_patterns": list(patterns)}

    def download() -> Found:
        # The name of a branch would mean other files tomorrow, and on another machine.
        commit = HfApi().dataset_info(repo, revision=revision, timeout=TIMEOUT).sha
        return Found(Path(snapshot_download(repo, revision=commit, **files)), {"hub": repo, "revision": commit})

    def earlier() -> Found:
        path = Path(snapshot_download(repo, revision=revision, local_files_only=True, **files))
        logging.warning("the hub is out of reach: %s is read, an earlier download, which may lack files.", path)
        # The client names the folder of a download by its commit.
        commit = revision if revision and _COMMIT.fullmatch(revision) else path.name
        return Found(path, {"hub": repo, "revision": commit})

    try:
        return download_or_earlier(download, earlier)
    except OutOfReach as error:
        pinned = f" --revision {revision}" if revision else ""
        raise DatasetNotFound(
            f"there is no local folder {repo}, and the Hugging Face hub did not give it ({error}): without network, "
            f"copy its files here by other means (`hf download {repo} --repo-type dataset{pinned}` where there is "
            "network) and give their folder as --source."
        ) from error
