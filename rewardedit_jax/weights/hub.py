"""Where a model directory is: a local folder, a model that ships with this package, or the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from rewardedit_jax.weights.files import choose_entry_file

# Models trained by this project for the shapes world, found by their bare name.
SHIPPED = Path(__file__).parents[1] / "pretrained"
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<folder>[\w./-]+))?")


class ModelNotFound(FileNotFoundError):
    """No model under that name; the message says what was looked for and where a local copy may be put."""


def find_model(model: str | Path, components: Sequence[str]) -> Path:
    """The local directory of a pipeline.

    Args:
      model: a directory; a training workdir (its `model` folder is taken); the name of a shipped model; or a hub id
        `owner/name`, optionally followed by a folder within it (`owner/name/stage2`).
      components: the folders that are needed, for the download.
    Raises:
      ModelNotFound: naming the files that were wanted.
    """
    path = Path(model).expanduser()
    for candidate in (path, path / "model", SHIPPED / path):
        if (candidate / "model_index.json").is_file():
            return candidate
    if path.is_dir():
        raise ModelNotFound(
            f"{path} is no model directory: it has no model_index.json. Expected beside it: {', '.join(components)}/."
        )
    hub_id = _HUB_ID.fullmatch(str(model))
    if hub_id is None or str(model).startswith("."):
        raise ModelNotFound(f"there is no directory {path}. Shipped models: {', '.join(shipped_models()) or 'none'}.")
    return _download(hub_id["repo"], hub_id["folder"], components)


def shipped_models() -> list[str]:
    return sorted(p.parent.name for p in SHIPPED.glob("*/model_index.json"))


def _download(repo: str, folder: str | None, components: Sequence[str]) -> Path:
    # Imported here: the hub client takes a while to load and local work never needs it.
    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    prefix = f"{folder.strip('/')}/" if folder else ""
    try:
        listed = HfApi().list_repo_files(repo)
        root = snapshot_download(repo, allow_patterns=_wanted_files(listed, prefix, components))
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        try:
            root = snapshot_download(repo, local_files_only=True)
        except (LocalEntryNotFoundError, OSError):
            raise ModelNotFound(_not_reached(repo, prefix, components, error)) from error
    directory = Path(root) / prefix
    if not (directory / "model_index.json").is_file():
        raise ModelNotFound(
            f"the hub repository {repo} has no {prefix}model_index.json: it is no pipeline, or a folder is missing in the id."
        )
    return directory


def _wanted_files(listed: Sequence[str], prefix: str, components: Sequence[str]) -> list[str]:
    """The files of a hub listing that loading will read: of several variants of the weights only the one it prefers."""
    wanted = [f"{prefix}model_index.json", f"{prefix}tokenizer/*", f"{prefix}scheduler/*"]
    for component in components:
        start = f"{prefix}{component}/"
        entry = choose_entry_file(name.removeprefix(start) for name in listed if name.startswith(start))
        wanted += [f"{start}config.json", f"{start}{entry}"]
        if entry and entry.endswith(".json"):  # an index: its shards too
            wanted.append(f"{start}{entry.split('.')[0]}*-of-*.safetensors")
    return wanted


def _not_reached(repo: str, prefix: str, components: Sequence[str], error: Exception) -> str:
    files = [f"{prefix}model_index.json", *(f"{prefix}{c}/" for c in (*components, "tokenizer", "scheduler"))]
    return (
        f"cannot get {repo} from the Hugging Face hub ({type(error).__name__}). Wanted: {', '.join(files)}. "
        f"Without network, copy that folder here by other means and give its path instead of the id."
    )
