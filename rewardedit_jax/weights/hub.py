"""Where a model directory is: a local folder, a model that ships with this package, or the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from rewardedit_jax.weights.files import STEMS, VARIANTS, choose_entry_file

# Models trained by this project for the shapes world, found by their bare name.
SHIPPED = Path(__file__).parents[1] / "pretrained"
_PATIENCE = 10.0  # seconds until a hub that does not answer counts as out of reach
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<folder>[\w./-]+))?")


class ModelNotFound(FileNotFoundError):
    """No model under that name; the message says what was looked for and where a local copy may be put."""


def find_model(model: str | Path, components: Sequence[str]) -> Path:
    """The local directory of a pipeline, or of a model that is a single network.

    Args:
      model: a directory; a training workdir (its `model` folder is taken); the name of a shipped model; or a hub id
        `owner/name`, optionally followed by a folder within it (`owner/name/stage2`).
      components: the folders of a pipeline that are needed, for the download; none for a single network.
    Raises:
      ModelNotFound: naming the files that were wanted.
    """
    path = Path(model).expanduser()
    for candidate in (path / "model", path, SHIPPED / path):  # a workdir has a config.json too, that of its recipe
        if (candidate / _entry(components)).is_file():
            return candidate
    if path.is_dir():
        raise ModelNotFound(_no_model_in(path, components))
    hub_id = _HUB_ID.fullmatch(str(model))
    if hub_id is None or str(model).startswith("."):
        shipped = ", ".join(shipped_models(components)) or "none"
        raise ModelNotFound(f"there is no directory {path}. Shipped models: {shipped}.")
    return _download(hub_id["repo"], hub_id["folder"], components)


def shipped_models(components: Sequence[str]) -> list[str]:
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{_entry(components)}"))


def _entry(components: Sequence[str]) -> str:
    """The file that makes a directory a model."""
    return "model_index.json" if components else "config.json"


def _no_model_in(path: Path, components: Sequence[str]) -> str:
    if (path / "checkpoints").is_dir():
        return f"{path} holds a training run that has not finished: its model is written when it ends."
    beside = f"{', '.join(components)}/" if components else "*.safetensors"
    return f"{path} is no model directory: it has no {_entry(components)}. Expected beside it: {beside}."


def _download(repo: str, folder: str | None, components: Sequence[str]) -> Path:
    # Imported here: the hub client takes a while to load and local work never needs it.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    prefix = f"{folder.strip('/')}/" if folder else ""
    # The errors of the HTTP library, another one in each major version of the client, and OSError.
    unreachable = HfHubHTTPError.__bases__
    try:
        # Not `list_repo_files`, which without network tries again for half a minute.
        listed = [file.rfilename for file in HfApi().model_info(repo, timeout=_PATIENCE).siblings]
        root = snapshot_download(repo, allow_patterns=_wanted_files(listed, prefix, components))
    except unreachable as error:
        try:  # a copy of an earlier download; of weights it may have any variant
            root = snapshot_download(repo, allow_patterns=_settings(prefix, components), local_files_only=True)
        except OSError:
            raise ModelNotFound(_not_reached(repo, prefix, components, error)) from error
    directory = Path(root) / prefix
    if not (directory / _entry(components)).is_file():
        raise ModelNotFound(
            f"the hub repository {repo} has no {prefix}{_entry(components)}: it is no such model, or a folder is "
            "missing in the id."
        )
    return directory


def _settings(prefix: str, components: Sequence[str]) -> list[str]:
    """Patterns of a model's small files."""
    if not components:
        return [f"{prefix}*.json", f"{prefix}*.jinja"]
    configs = [f"{prefix}{component}/config.json" for component in components]
    return [f"{prefix}model_index.json", f"{prefix}tokenizer/*", f"{prefix}scheduler/*", *configs]


def _wanted_files(listed: Sequence[str], prefix: str, components: Sequence[str]) -> list[str]:
    """Patterns of the files of a hub listing that loading reads: of several variants of the weights only one."""
    wanted = _settings(prefix, components)
    for start in [f"{prefix}{component}/" for component in components] or [prefix]:
        entry = choose_entry_file(name.removeprefix(start) for name in listed if name.startswith(start))
        if entry is not None:
            wanted += [f"{start}{entry}", *_shards_of(start, entry)]
    return wanted


def _shards_of(start: str, entry: str) -> list[str]:
    if not entry.endswith(".json"):
        return []
    stem = next(stem for stem in STEMS if entry.startswith(f"{stem}."))
    variant = next((variant for variant in VARIANTS if variant and variant in entry), "")
    return [f"{start}{stem}{variant}-*-of-*.safetensors"]


def _not_reached(repo: str, prefix: str, components: Sequence[str], error: Exception) -> str:
    folders = (*components, "tokenizer", "scheduler") if components else ()
    files = [f"{prefix}{_entry(components)}", *(f"{prefix}{folder}/" for folder in folders)]
    files += [] if components else [f"{prefix}*.safetensors"]
    return (
        f"there is no local directory {repo}/{prefix}, and the Hugging Face hub did not give it "
        f"({type(error).__name__}: {_first_line(error)}). Wanted: {', '.join(files)}. Without network, copy that "
        "folder here by other means and give its path instead of the id."
    )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line), "no reason given").rstrip(".")
