"""Where a model directory is: a local folder, a model that ships with this package, or the Hugging Face hub."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rewardedit_jax.weights.files import STEMS, VARIANTS, choose_entry_file, refused_pickle

# Models trained by this project for the shapes world, found by their bare name.
SHIPPED = Path(__file__).parents[1] / "pretrained"
_PATIENCE = 10.0  # seconds until a hub that does not answer counts as out of reach
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<folder>[\w./-]+))?")
# A tokenizer is read from these; the others, where there are any, are of older libraries or hold the chat template.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_BESIDE_TOKENIZER = (
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)


class ModelNotFound(FileNotFoundError):
    """No model under that name; the message says what was looked for and where a local copy may be put."""


class _OutOfReach(Exception):
    """The hub did not give what was asked of it, nor had it before; the text says why."""


def find_model(model: str | Path, components: Sequence[str], weights: bool = True) -> Path:
    """The local directory of a pipeline, or of a model that is a single network.

    Args:
      model: a directory; a training workdir (its `model` folder is taken); the name of a shipped model; or a hub id
        `owner/name`, optionally followed by a folder within it (`owner/name/stage2`).
      components: the folders of a pipeline that are needed, for the download; none for a single network.
      weights: whether a download includes them; without, there is soon a directory to look into.
    Raises:
      ModelNotFound: naming the files that were wanted.
    """
    path = Path(model).expanduser()
    for candidate in (path / "model", path, SHIPPED / path):  # a workdir has a config.json too, that of its recipe
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
    """The local directory of a model's tokenizer; of a hub id only the tokenizer's files are downloaded.

    Args:
      model: a directory, in which `TOKENIZER_FILES` may be missing; a shipped model; or a hub id as `find_model`'s.
    Raises:
      ModelNotFound: there is no such directory, nor did the hub give those files.
    """
    path = Path(model).expanduser()
    for candidate in (path, SHIPPED / path):
        if candidate.is_dir():
            return candidate
    hub_id = _hub_id(model)
    if hub_id is None:
        raise ModelNotFound(f"there is no directory {path}.")
    repo, prefix = hub_id
    needed = [f"{prefix}{name}" for name in TOKENIZER_FILES]
    every = [*needed, *(f"{prefix}{name}" for name in _BESIDE_TOKENIZER)]
    try:
        return _snapshot(repo, lambda _: every, needed) / prefix
    except _OutOfReach as error:
        raise ModelNotFound(
            f"there is no local directory {repo}/{prefix}, and the Hugging Face hub did not give its tokenizer "
            f"({error}): without network, copy {' and '.join(needed)} here by other means (`hf download {repo} "
            f"{' '.join(needed)}` where there is network) and give their directory instead of the id."
        ) from error


def shipped_models(components: Sequence[str]) -> list[str]:
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{_entry(components)}"))


def _hub_id(model: str | Path) -> tuple[str, str] | None:
    """The repository and the start of the names of a model's files in it; None for what can only be a path."""
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
        return f"{path} holds a training run that has not finished: its model is written when it ends."
    if not components and (refusal := refused_pickle(path)):
        return f"{path} has no config.json: copy there that of its training run or its base model. Besides, {refusal}"
    beside = f"{', '.join(components)}/" if components else "*.safetensors"
    return f"{path} is no model directory: it has no {_entry(components)}. Expected beside it: {beside}."


def _download(repo: str, prefix: str, components: Sequence[str], weights: bool) -> Path:
    small = _settings(prefix, components)

    def wanted(listed: Sequence[str]) -> list[str]:
        return [*small, *_weight_files(listed, prefix, components)] if weights else small

    try:
        directory = _snapshot(repo, wanted, small) / prefix
    except _OutOfReach as error:
        raise ModelNotFound(_not_reached(repo, prefix, components, error)) from error
    if not (directory / _entry(components)).is_file():
        raise ModelNotFound(
            f"the hub repository {repo} has no {prefix}{_entry(components)}: it is no such model, or a folder is "
            "missing in the id."
        )
    return directory


def _snapshot(repo: str, wanted: Callable[[Sequence[str]], list[str]], needed: list[str]) -> Path:
    """The local folder of a hub repository, or the one of an earlier download where the hub cannot be reached.

    Args:
      wanted: names of all files → patterns of those to download.
      needed: patterns of what an earlier download must have; of weights it may have any variant.
    """
    # Imported here: the hub client takes a while to load and local work never needs it.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The errors of the HTTP library, another one in each major version of the client, OSError; and of impossible names.
    unreachable = (*HfHubHTTPError.__bases__, HFValidationError)
    try:
        # Not `list_repo_files`, which without network tries again for half a minute.
        listed = [file.rfilename for file in HfApi().model_info(repo, timeout=_PATIENCE).siblings]
        return Path(snapshot_download(repo, allow_patterns=wanted(listed)))
    except unreachable as error:
        try:
            return Path(snapshot_download(repo, allow_patterns=needed, local_files_only=True))
        except (OSError, HFValidationError):
            raise _OutOfReach(f"{type(error).__name__}: {_first_line(error)}") from error


def _settings(prefix: str, components: Sequence[str]) -> list[str]:
    """Patterns of a model's small files."""
    if not components:
        return [f"{prefix}*.json", f"{prefix}*.jinja"]
    configs = [f"{prefix}{component}/config.json" for component in components]
    return [f"{prefix}model_index.json", f"{prefix}tokenizer/*", f"{prefix}scheduler/*", *configs]


def _weight_files(listed: Sequence[str], prefix: str, components: Sequence[str]) -> list[str]:
    """Patterns of the weights in a hub listing that loading reads: of several variants only one."""
    wanted = []
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


def _not_reached(repo: str, prefix: str, components: Sequence[str], error: _OutOfReach) -> str:
    folders = (*components, "tokenizer", "scheduler") if components else ()
    files = [f"{prefix}{_entry(components)}", *(f"{prefix}{folder}/" for folder in folders)]
    files += [] if components else [f"{prefix}*.safetensors"]
    return (
        f"there is no local directory {repo}/{prefix}, and the Hugging Face hub did not give it "
        f"({error}). Wanted: {', '.join(files)}. Without network, copy that folder here by other means and give its "
        "path instead of the id."
    )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line), "no reason given").rstrip(".")
