"""Where a model directory is: a local folder, a model that ships with this package, or the Hugging Face hub."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from rewardedit_jax.downloads import TIMEOUT, OutOfReach, download_or_earlier
from rewardedit_jax.weights.files import choose_entry_file, shard_pattern
from rewardedit_jax.weights.saving import complete_save

# Models trained by this project for the shapes world, found by their bare name.
SHIPPED = Path(__file__).parents[1] / "pretrained"
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<folder>[\w./-]+))?")
# A tokenizer is read from these. The others, where they exist, belong to older libraries or are the chat template.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_OLDER_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
_CHAT_TEMPLATES = ("chat_template.json", "chat_template.jinja", "additional_chat_templates/*.jinja")


class ModelNotFound(FileNotFoundError):
    """There is no model under that name; the message lists the files and says where a local copy may be put."""


def find_model(model: str | Path, components: Sequence[str], weights: bool = True) -> Path:
    """The local directory of a pipeline, or of a model that is a single network.

    Args:
      model: a directory; a training workdir (its `model` folder is taken); the name of a shipped model; or a hub id
        `owner/name`, optionally followed by a folder within it (`owner/name/stage2`).
      components: the folders of a pipeline that are downloaded; none for a single network.
      weights: whether a download includes them. Without, it takes seconds and shows which networks there are.
    Raises:
      ModelNotFound: naming the missing files.
    """
    path = Path(model).expanduser()
    for candidate in (path / "model", path, SHIPPED / path):  # a workdir has a config.json too, that of its recipe
        complete_save(candidate)
        if (candidate / _entry(components)).is_file():
            return candidate
    if path.is_dir():
        raise ModelNotFound(_no_model_in(path, components))
    hub_id = _hub_id(model)
    if hub_id is None:
        shipped = ", ".join(shipped_models(components)) or "none"
        raise ModelNotFound(f"there is no directory {path}. Shipped models: {shipped}.")
    return _download(*hub_id, components, weights)


def find_tokenizer(model: str | Path) -> Path:
    """The local directory of a model's tokenizer. Of a hub id, only the tokenizer's files are downloaded.

    Args:
      model: a directory, in which `TOKENIZER_FILES` may be missing; a shipped model; or a hub id, as in `find_model`.
    Raises:
      ModelNotFound: as `find_files`.
    """
    return find_files(model, TOKENIZER_FILES, (*_OLDER_FILES, *_CHAT_TEMPLATES), "tokenizer")


def find_files(model: str | Path, needed: Sequence[str], beside: Sequence[str] = (), what: str = "files") -> Path:
    """The local directory of a model, of which only some files are needed.

    Args:
      model: a directory, whatever is in it; a shipped model; or a hub id, as in `find_model`.
      needed: names or patterns of files to download, which an earlier download must have.
      beside: further names or patterns, of files that may exist.
      what: the noun for these files in the error.
    Raises:
      ModelNotFound: there is no such directory, and the hub did not give those files.
    """
    path = Path(model).expanduser()
    for candidate in (path, SHIPPED / path):
        if candidate.is_dir():
            return candidate
    hub_id = _hub_id(model)
    if hub_id is None:
        raise ModelNotFound(f"there is no directory {path}.")
    repo, prefix = hub_id
    needed, beside = ([f"{prefix}{name}" for name in names] for names in (needed, beside))
    try:
        return _snapshot(repo, needed, lambda _: beside) / prefix
    except OutOfReach as error:
        raise ModelNotFound(
            f"there is no local directory {repo}/{prefix}, and the Hugging Face hub did not give its {what} "
            f"({error}): without network, copy {' and '.join(needed)} here by other means (`hf download {repo} "
            f"{' '.join(needed)}` where there is network) and give their directory instead of the id."
        ) from error


def shipped_models(components: Sequence[str]) -> list[str]:
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{_entry(components)}"))


def _hub_id(model: str | Path) -> tuple[str, str] | None:
    """The repository and the prefix of a model's file names in it; None for what can only be a path."""
    found = _HUB_ID.fullmatch(str(model))
    if found is None or str(model).startswith("."):
        return None
    folder = (found["folder"] or "").strip("/")
    return found["repo"], f"{folder}/" if folder else ""


def _entry(components: Sequence[str]) -> str:
    """The file that makes a directory a model."""
    return "model_index.json" if components else "config.json"


def _no_model_in(path: Path, components: Sequence[str]) -> str:
    if (path / "checkpoints").is_dir():
        return f"{path} is a training run that has not finished: its model is written when it ends."
    if not components and choose_entry_file(p.name for p in path.iterdir()):
        # EditReward's published training writes model.pth without config.json.
        return f"{path} has weights but no config.json: copy there that of its training run or its base model."
    beside = f"{', '.join(components)}/" if components else "*.safetensors"
    return f"{path} is not a model directory: it has no {_entry(components)}. Expected beside it: {beside}."


def _download(repo: str, prefix: str, components: Sequence[str], weights: bool) -> Path:
    if components:
        small = ["model_index.json", "tokenizer/*", "scheduler/*", *(f"{name}/config.json" for name in components)]
        wanted = ["model_index.json", *(f"{name}/" for name in (*components, "tokenizer", "scheduler"))]
    else:
        small, wanted = ["*.json", "*.jinja"], ["config.json", "*.safetensors"]
    further = partial(_weight_files, prefix, components) if weights else lambda _: ()
    try:
        # An earlier download must have the small files only: its weights may be of any variant.
        directory = _snapshot(repo, [prefix + name for name in small], further) / prefix
    except OutOfReach as error:
        raise ModelNotFound(
            f"there is no local directory {repo}/{prefix}, and the Hugging Face hub did not give it ({error}). Wanted: "
            f"{', '.join(prefix + name for name in wanted)}. Without network, copy that folder here by other means and "
            "give its path instead of the id."
        ) from error
    if not (directory / _entry(components)).is_file():
        raise ModelNotFound(
            f"the hub repository {repo} has no {prefix}{_entry(components)}: it is not such a model, or the id lacks a "
            "folder."
        )
    return directory


def _snapshot(repo: str, needed: list[str], further: Callable[[Sequence[str]], Iterable[str]]) -> Path:
    """The local folder of a hub repository, or of an earlier download if the hub cannot be reached.

    Args:
      needed: patterns of files to download, which an earlier download must have.
      further: names of all files → patterns of further files to download.
    """
    # Imported here: the hub client takes a while to load, and local work never needs it.
    from huggingface_hub import HfApi, snapshot_download

    def download() -> str:
        # Not `list_repo_files`, which retries for half a minute without network.
        listed = [file.rfilename for file in HfApi().model_info(repo, timeout=TIMEOUT).siblings]
        return snapshot_download(repo, allow_patterns=[*needed, *further(listed)])

    def earlier() -> str:
        return snapshot_download(repo, allow_patterns=needed, local_files_only=True)

    return Path(download_or_earlier(download, earlier))


def _weight_files(prefix: str, components: Sequence[str], listed: Sequence[str]) -> Iterator[str]:
    """Patterns of the weights in a hub listing that loading reads: of several variants only one."""
    for start in [f"{prefix}{component}/" for component in components] or [prefix]:
        entry = choose_entry_file(name.removeprefix(start) for name in listed if name.startswith(start))
        if entry is None:
            continue  # `read_weights` reports it
        yield f"{start}{entry}"
        if entry.endswith(".json"):
            yield f"{start}{shard_pattern(entry)}"  # the index, which names its shards, is not yet downloaded
