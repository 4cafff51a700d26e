import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_tokenizer import write_tiny_tokenizer

from rewardedit_jax.scoring.prompts import REWARD_TOKEN, chat_prompt
from rewardedit_jax.scoring.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), size=600)


@pytest.fixture(scope="module")
def tokenizer(directory):
    return load_tokenizer(directory, rows=601)


def test_the_reward_token_comes_after_all_others(tokenizer):
    assert (tokenizer.reward_id, tokenizer.image_id, len(tokenizer.base)) == (600, 599, 601)


def test_prompts_end_with_the_reward_token(tokenizer):
    prompt = chat_prompt("Füge {eine} 碗 hinzu", "quality")
    ids = tokenizer.encode(prompt)
    assert ids.dtype == np.int32
    assert tokenizer.base.decode(ids) == prompt[: prompt.index(REWARD_TOKEN) + len(REWARD_TOKEN)]
    assert np.flatnonzero(ids == tokenizer.reward_id).tolist() == [len(ids) - 1]


def test_special_tokens_are_one_id_each(tokenizer):
    ids = tokenizer.encode(f"<|im_start|><|vision_start|><|image_pad|><|vision_end|><|im_end|>{REWARD_TOKEN}")
    assert sorted(ids) == [595, 596, 597, 598, 599, 600]


@pytest.mark.parametrize("times", [0, 2])
def test_a_prompt_has_one_reward_token(tokenizer, times):
    with pytest.raises(ValueError, match=f"this one has it {times} times"):
        tokenizer.encode("rate it: " + times * REWARD_TOKEN)


def test_threads_may_share_a_tokenizer(directory, tmp_path):
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    settings["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings), "utf-8")
    shared = load_tokenizer(tmp_path)
    prompts = [chat_prompt(f"edit {i}", "following") for i in range(16)]
    alone = [load_tokenizer(directory).encode(prompt) for prompt in prompts[:1]]
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(shared.encode, prompts))
    np.testing.assert_array_equal(rows[0], alone[0])
    assert len({row.tobytes() for row in rows}) == 16


def test_a_checkpoint_without_tokenizer_takes_its_bases(directory, tmp_path):
    assert load_tokenizer(tmp_path, 601, base=directory).reward_id == 600


def test_a_checkpoint_may_have_the_reward_token_already(tokenizer, tmp_path):
    tokenizer.base.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path, 601)
    prompt = chat_prompt("add a bowl", "following")
    np.testing.assert_array_equal(again.encode(prompt), tokenizer.encode(prompt))


@pytest.mark.parametrize("rows", [600, 602, 152064])
def test_other_embedding_rows_are_told(directory, rows):
    with pytest.raises(ValueError, match=f"the id 600, but the checkpoint has {rows} embedding rows.*base=.*601 rows"):
        load_tokenizer(directory, rows)


def test_another_models_tokenizer_is_told(directory, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((directory / name).read_text("utf-8").replace("image_pad", "picture"), "utf-8")
    with pytest.raises(ValueError, match=r"has no <\|image_pad\|>"):
        load_tokenizer(tmp_path)


def test_missing_files_are_named_with_the_remedy(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks tokenizer\.json and tokenizer_config\.json.*give base="):
        load_tokenizer(tmp_path, 601)
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"lacks tokenizer_config\.json, as"):
        load_tokenizer(tmp_path, 601)


def test_a_base_without_files_is_told(tmp_path):
    (tmp_path / "base").mkdir()
    with pytest.raises(FileNotFoundError, match=r"and so does base=.*tokenizer\.json"):
        load_tokenizer(tmp_path, base=tmp_path / "base")


@pytest.mark.parametrize("base", ["nobody/nothing-of-the-kind", "no/such/folder"])
def test_a_base_that_is_not_here_is_told(tmp_path, base):
    with pytest.raises(FileNotFoundError, match=f"base={base} is neither.*hf download {base} tokenizer.json"):
        load_tokenizer(tmp_path, base=base)


def test_a_base_that_was_downloaded_is_found(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--owner--base"
    shutil.copytree(directory, repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    assert load_tokenizer(tmp_path, 601, base="owner/base").reward_id == 600
