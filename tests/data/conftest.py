import json

import pytest

from rewardedit_jax.data.clip_tokenizer import load_clip_tokenizer


def write_tokenizer(directory, max_length=16):
    """CLIP's tokenizer without merges: one token per character, ids in CLIP's order."""
    characters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    words = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), "utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return directory


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir):
    return load_clip_tokenizer(tokenizer_dir)
