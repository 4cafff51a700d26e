import json
import shutil

import pytest
from paths import SHARED_FIXTURES
from toy_llama import write_toy_tokenizer

from rewardedit_jax.data.clip_tokenizer import load_clip_tokenizer
from rewardedit_jax.data.llama_tokenizer import load_language_tokenizer


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


@pytest.fixture(scope="session")
def toy_llama_dir(tmp_path_factory):
    return write_toy_tokenizer(tmp_path_factory.mktemp("toy_llama"))


@pytest.fixture(scope="session")
def toy_llama(toy_llama_dir):
    return load_language_tokenizer(toy_llama_dir)


@pytest.fixture(scope="session")
def smartedit_a():
    """The facts of the reference SmartEdit."""
    file = SHARED_FIXTURES / "smartedit_a" / "smartedit_a.json"
    if not file.is_file():
        pytest.skip(f"the reference SmartEdit is absent: no file {file}")
    return json.loads(file.read_text("utf-8"))


@pytest.fixture(scope="session")
def smartedit_a_tokenizer_dir(smartedit_a, tmp_path_factory):
    out = tmp_path_factory.mktemp("smartedit_a")
    shutil.copy(SHARED_FIXTURES / "smartedit_a" / "tokenizer.model", out)
    (out / "added_tokens.json").write_text(json.dumps(smartedit_a["added_tokens"]), "utf-8")
    return out


@pytest.fixture(scope="session")
def smartedit_a_tokenizer(smartedit_a_tokenizer_dir):
    return load_language_tokenizer(smartedit_a_tokenizer_dir)
