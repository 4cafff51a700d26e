"""Tokenizer files: damaged ones are named, and transformers 4 reads what is written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import draw, tiny_editor
from tiny_scorers import shapes_scorer
from tokenizers import AddedToken
from transformers import AutoTokenizer

from rewardedit_jax import Editor
from rewardedit_jax.data.clip_tokenizer import encode_texts, load_clip_tokenizer
from rewardedit_jax.scoring.tokenizer import load_scorer_tokenizer
from rewardedit_jax.weights.files import WeightFileError
from rewardedit_jax.weights.hub import SHIPPED
from rewardedit_jax.weights.pretrained import save_pretrained
from rewardedit_jax.weights.tokenizer_files import save_tokenizer

SHIPPED_TOKENIZERS = (SHIPPED / "shapes" / "tokenizer", SHIPPED / "shapes_scorer")
TEXT = "three\nlines\nof text\n"
PROMPT = "make the red circle blue"
TRANSFORMERS_4 = Path(sys.prefix) / "transformers4"  # `make oracle` installs it there


@pytest.fixture(scope="module")
def editor():
    return tiny_editor()


@pytest.fixture(scope="module")
def saved(editor, tmp_path_factory):
    """The tokenizer folder of a saved editor, and the directory of a saved scorer that lists a further token."""
    directory = tmp_path_factory.mktemp("saved")
    editor.save(directory / "editor")
    scorer = shapes_scorer()
    scorer.tokenizer.base.add_special_tokens({"extra_special_tokens": [AddedToken("<|im_start|>", special=True)]})
    scorer.save(directory / "scorer")
    return directory / "editor" / "tokenizer", directory / "scorer"


@pytest.fixture
def damaged(saved, tmp_path):
    """Copies a saved tokenizer's folder, and changes files in it; None removes one."""

    def change(i, **files):
        shutil.copytree(saved[i], tmp_path / "tokenizer")
        for name, text in files.items():
            file = tmp_path / "tokenizer" / name.replace("__", ".")
            file.unlink(missing_ok=True) if text is None else file.write_text(text)
        return tmp_path / "tokenizer"

    return change


@pytest.mark.parametrize("name", ["tokenizer__json", "tokenizer_config__json"])
@pytest.mark.parametrize("text", [TEXT, "[]", '{"model": {"type": "BPE"}, "tokenizer_class": 5}', "", "\0\0"])
@pytest.mark.parametrize(("i", "load"), [(0, load_clip_tokenizer), (1, load_scorer_tokenizer)])
def test_a_damaged_file_is_named(damaged, i, load, name, text):
    directory = damaged(i, **{name: text})
    with pytest.raises(WeightFileError) as error:
        load(directory)
    assert str(error.value).startswith(str(directory / name.replace("__", ".")))
    assert "again" in str(error.value)


@pytest.mark.parametrize("name", ["special_tokens_map__json", "added_tokens__json"])
@pytest.mark.parametrize(("i", "load"), [(0, load_clip_tokenizer), (1, load_scorer_tokenizer)])
def test_a_damaged_file_of_older_libraries_is_named(damaged, i, load, name):
    with pytest.raises(WeightFileError, match=name.replace("__", r"\.")):
        load(damaged(i, **{name: TEXT}))


@pytest.mark.parametrize(("name", "text"), [("vocab", TEXT), ("vocab", '{"a": 0}'), ("vocab", "[]"), ("merges", TEXT)])
def test_damaged_older_files_are_named_where_they_are_read(damaged, editor, name, text):
    name = "vocab__json" if name == "vocab" else "merges__txt"
    directory = damaged(0, **{name: text})
    expected = encode_texts(editor.base.tokenizer, [PROMPT]).ids
    np.testing.assert_array_equal(encode_texts(load_clip_tokenizer(directory), [PROMPT]).ids, expected)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(WeightFileError, match=name.replace("__", r"\.")):
        load_clip_tokenizer(directory)


def test_a_pointer_of_git_lfs_is_named(damaged):
    directory = damaged(1, tokenizer__json="version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n")
    with pytest.raises(WeightFileError, match=r"tokenizer\.json.*git lfs pull"):
        load_scorer_tokenizer(directory)


@pytest.mark.parametrize("length", ["null", "0", "-1", "77.5", "1e30", '"77"'])
def test_a_length_that_is_none_is_named(damaged, length):
    text = f'{{"tokenizer_class": "CLIPTokenizer", "model_max_length": {length}}}'
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        load_clip_tokenizer(damaged(0, tokenizer_config__json=text))


def test_an_editors_tokenizer_is_that_of_its_text_encoder(editor, saved, tmp_path):
    """Fewer tokens, more tokens, longer texts. The tokenizer of a damaged vocabulary has fewer."""
    text = editor.base.text_encoder
    for setting, change in (("vocab_size", 300), ("vocab_size", -1), ("max_position_embeddings", -1)):
        config = text.config.__class__(**{**text.config.__dict__, setting: getattr(text.config, setting) + change})
        shutil.copytree(saved[0].parent, tmp_path, dirs_exist_ok=True)
        module = text.clone(config=config)
        save_pretrained(module, draw(module), tmp_path / "text_encoder")
        with pytest.raises(ValueError, match=rf"{tmp_path / 'tokenizer'}.*{getattr(config, setting)}"):
            Editor.load(tmp_path)


def test_settings_are_those_of_both_versions(saved):
    """transformers 4 has other names for the general class and for a list of further special tokens."""
    for directory in (*saved, *SHIPPED_TOKENIZERS):
        settings = json.loads((directory / "tokenizer_config.json").read_text("utf-8"))
        assert settings["tokenizer_class"] in ("CLIPTokenizer", "PreTrainedTokenizerFast")
        assert not settings.keys() & {"extra_special_tokens", "backend", "is_local", "local_files_only"}
    settings = json.loads((saved[1] / "tokenizer_config.json").read_text("utf-8"))
    assert settings["additional_special_tokens"] == ["<|im_start|>"]
    for directory in (saved[0], SHIPPED_TOKENIZERS[0]):  # diffusers with transformers 4 reads these of an editor
        assert {"vocab.json", "merges.txt"} <= {p.name for p in directory.iterdir()}


def test_a_saved_tokenizer_is_saved_again_alike(saved, tmp_path):
    save_tokenizer(AutoTokenizer.from_pretrained(saved[1]), tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text("utf-8") == (saved[1] / file.name).read_text("utf-8")


@pytest.mark.oracle
def test_transformers_4_loads_them(saved):
    if not TRANSFORMERS_4.is_dir():
        pytest.skip(f"transformers 4 is not in {TRANSFORMERS_4}: run `make oracle` once")
    code = (
        "import json, sys, transformers as t; assert t.__version__ < '5';"
        "made = [c.from_pretrained(d) for d in sys.argv[1::2] for c in (t.AutoTokenizer, t.CLIPTokenizer)]"
        " + [t.AutoTokenizer.from_pretrained(d) for d in sys.argv[2::2]];"
        f"print(json.dumps([m({PROMPT!r})['input_ids'] for m in made]))"
    )
    folders = map(str, (*saved, *SHIPPED_TOKENIZERS))
    command, environment = [sys.executable, "-c", code, *folders], os.environ | {"PYTHONPATH": str(TRANSFORMERS_4)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    ours = [load_clip_tokenizer(d) for d in (saved[0], SHIPPED_TOKENIZERS[0]) for _ in range(2)]
    ours += [load_scorer_tokenizer(d).base for d in (saved[1], SHIPPED_TOKENIZERS[1])]
    expected = [tokenizer(PROMPT)["input_ids"] for tokenizer in ours]
    assert json.loads(told.stdout.splitlines()[-1]) == expected
