import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from paths import REFERENCES, ROOT

from rewardedit_jax.data.clip_tokenizer import CutTexts, TruncationWarning, encode_texts, load_clip_tokenizer, warn_cut

EDITOR_A = REFERENCES / "editor_a"


@pytest.fixture(scope="module")
def editor_a(tmp_path_factory):
    """The fixture's json, its arrays, and its tokenizer written as a model directory has it."""
    facts = json.loads((EDITOR_A / "editor_a.json").read_text("utf-8"))
    out, tokenizer = tmp_path_factory.mktemp("editor_a"), facts["tokenizer"]
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *tokenizer["merges"], ""]), "utf-8")
    for name in ("vocab", "tokenizer_config", "special_tokens_map"):
        (out / f"{name}.json").write_text(json.dumps(tokenizer[name]), "utf-8")
    return facts, np.load(EDITOR_A / "text.npz"), load_clip_tokenizer(out)


@pytest.mark.parametrize(
    ("strings", "ids"),
    [("strings", "token_ids"), ("extra_strings", "extra_token_ids"), ("reward_texts", "reward_token_ids")],
)
def test_ids_are_those_of_the_published_editor(editor_a, strings, ids):
    facts, arrays, tokenizer = editor_a
    ours = encode_texts(tokenizer, facts[strings]).ids
    np.testing.assert_array_equal(ours, arrays[ids])
    assert ours.dtype == np.int32


def test_texts_are_padded(tokenizer):
    ids = encode_texts(tokenizer, ["ab", ""]).ids
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    a, b = tokenizer.convert_tokens_to_ids(["a", "b</w>"])
    assert ids.tolist() == [[start, a, b, end] + [end] * 12, [start] + [end] * 15]


def test_what_does_not_fit_is_cut_and_counted(tokenizer):
    tokens = encode_texts(tokenizer, ["a" * 14, "a" * 15, "a" * 40, ""])
    assert tokens.cut.tolist() == [0, 1, 26, 0]
    np.testing.assert_array_equal(tokens.ids[:, -1], tokenizer.eos_token_id)
    assert tokens.ids[2, -2] == tokenizer.convert_tokens_to_ids("a")


def test_a_cut_text_is_warned_of():
    with pytest.warns(TruncationWarning, match=r"6 tokens .*: make it blue$"):
        warn_cut("make it blue", 6)


def test_cut_texts_are_counted_and_few_are_logged(caplog):
    cut_texts = CutTexts()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: cut_texts(f"text {i}", 3), range(120)))
    assert cut_texts.count == 120
    assert [record.args[0] for record in caplog.records] == [1, 10, 100]


def test_no_texts_give_no_rows(tokenizer):
    assert encode_texts(tokenizer, []).ids.shape == (0, 16)


def test_threads_may_share_a_tokenizer(tokenizer_dir):
    tokenizer = load_clip_tokenizer(tokenizer_dir)
    tokenizer.save_pretrained(tokenizer_dir / "full")
    settings = json.loads((tokenizer_dir / "full" / "tokenizer.json").read_text("utf-8"))
    settings["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (tokenizer_dir / "full" / "tokenizer.json").write_text(json.dumps(settings), "utf-8")
    shared = load_clip_tokenizer(tokenizer_dir / "full")
    assert shared.backend_tokenizer.truncation is None
    texts = [f"text {i}" for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda text: encode_texts(shared, [text]).ids[0], texts))
    np.testing.assert_array_equal(np.stack(rows), encode_texts(tokenizer, texts).ids)


def test_missing_files_are_named_with_the_remedy(tokenizer_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks vocab\.json and merges\.txt .*tokenizer\.json.*copy them"):
        load_clip_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_bytes((tokenizer_dir / "vocab.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"lacks merges\.txt \("):
        load_clip_tokenizer(tmp_path)


def test_a_tokenizer_must_say_its_length(tokenizer_dir, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((tokenizer_dir / name).read_bytes())
    with pytest.raises(ValueError, match="model_max_length"):
        load_clip_tokenizer(tmp_path)


def test_a_machine_without_torch_is_not_told_so():
    """In processes that cannot find torch; plain transformers shows that there was something to silence."""
    code = "import sys; sys.modules['torch'] = None; import rewardedit_jax.data.clip_tokenizer"
    environment = {k: v for k, v in os.environ.items() if k != "TRANSFORMERS_NO_ADVISORY_WARNINGS"}
    root = str(ROOT)
    quiet, loud = (
        subprocess.run(
            [sys.executable, "-c", c], capture_output=True, text=True, check=True, env=environment, cwd=root
        ).stderr
        for c in (code, code.replace("rewardedit_jax.data.clip_tokenizer", "transformers"))
    )
    assert "PyTorch was not found" in loud
    assert "PyTorch was not found" not in quiet
