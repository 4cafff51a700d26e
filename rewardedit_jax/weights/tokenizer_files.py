"""Tokenizer files of a model directory: reading them, and writing what both transformers 4 and 5 read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewardedit_jax.weights.files import WeightFileError, read_json, write_json

# transformers reads these where they exist.
_JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# Settings that transformers 5 writes about the load that came before.
_OF_THE_LOAD = ("backend", "is_local", "local_files_only")


def load_tokenizer(from_pretrained: Callable[..., Any], directory: Path) -> Any:
    """The tokenizer in a directory, by a class of transformers. WeightFileError names a file that is damaged.

    Args:
      from_pretrained: the method of the class.
    """
    try:
        return from_pretrained(directory, local_files_only=True)
    # Every type of error: tokenizers raises bare Exception, and transformers what follows from a value of a wrong type,
    # such as KeyError and AttributeError.
    except Exception as error:
        raise WeightFileError(
            f"{_fault(directory, error)}: expected the files of a tokenizer. Copy it again."
        ) from error


def _fault(directory: Path, error: Exception) -> str:
    """The file that a load failed at, and the reason."""
    from tokenizers import Tokenizer

    for file in (directory / name for name in _JSON_FILES):
        if file.is_file():
            read_json(file)  # raises for what is not a JSON object
    file = directory / "tokenizer.json"
    if not file.is_file():
        # transformers reads both to build a tokenizer.
        return f"{directory / 'vocab.json'} or {directory / 'merges.txt'}: {error}"
    try:
        Tokenizer.from_file(str(file))
    except Exception as cause:  # tokenizers has no other type
        return f"{file}: {cause}"
    return f"{directory / 'tokenizer_config.json'}: {error}"


def save_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Write a tokenizer's files so that transformers 4 and 5 read them."""
    tokenizer.save_pretrained(directory)
    file = directory / "tokenizer_config.json"
    settings = {name: value for name, value in read_json(file).items() if name not in _OF_THE_LOAD}
    # Version 5 has another name for the general class, and still reads the old one.
    if settings["tokenizer_class"] == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    # Version 4 takes a list of tokens under its old name only, which version 5 reads as well.
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(settings, file)
