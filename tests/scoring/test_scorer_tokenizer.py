import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from tiny_tokenizer import SPECIAL, write_tiny_tokenizer
from tokenizers import AddedToken

from rewardedit_jax.scoring.prompts import NO_SYSTEM, PERSPECTIVES, QWEN_SYSTEM, REWARD_TOKEN, chat_prompt
from rewardedit_jax.scoring.tokenizer import load_scorer_tokenizer, reward_rows

# Made up, each in the manner of a published one: the text in the template, the text in a variable, no system turn.
TURNS = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}"""
IN_THE_TEXT = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe {{ 'bold' }}.<|im_end|>\n{% endif %}" + TURNS
IN_A_VARIABLE = (
    "{%- set default = 'You are Mo,\\nmade up.' -%}"
    "{%- set system = messages[0].content if messages[0].role == 'system' else default -%}"
    "{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}" + TURNS
)
EMPTY = "{{ '<|im_start|>system\\n<|im_end|>\\n' }}" + TURNS
QWENS = (  # Qwen2.5-VL's, less its videos
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), size=600)


@pytest.fixture(scope="module")
def tokenizer(directory):
    return load_scorer_tokenizer(directory)


@pytest.fixture
def with_template(directory, tmp_path):
    """Loads the tokenizer with a chat template in one of the places where it may be."""

    def load(template, file="tokenizer_config.json"):
        shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
        if file.endswith(".jinja"):
            (tmp_path / file).write_text(template, "utf-8")
        else:
            found = json.loads((tmp_path / file).read_text("utf-8")) if (tmp_path / file).exists() else {}
            (tmp_path / file).write_text(json.dumps({**found, "chat_template": template}), "utf-8")
        return load_scorer_tokenizer(tmp_path)

    return load


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
    with pytest.raises(ValueError, match=f"{times} .*Reward"):
        tokenizer.encode("rate it: " + times * REWARD_TOKEN)


def test_threads_may_share_a_tokenizer(directory, tmp_path):
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    settings["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings), "utf-8")
    shared = load_scorer_tokenizer(tmp_path)
    prompts = [chat_prompt(f"edit {i}", "following") for i in range(16)]
    alone = [load_scorer_tokenizer(directory).encode(prompt) for prompt in prompts[:1]]
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(shared.encode, prompts))
    np.testing.assert_array_equal(rows[0], alone[0])
    assert len({row.tobytes() for row in rows}) == 16


def test_a_checkpoint_without_tokenizer_takes_its_bases(directory, tmp_path):
    assert load_scorer_tokenizer(tmp_path, base=directory).reward_id == 600


def test_a_checkpoint_may_have_the_reward_token_already(tokenizer, tmp_path):
    tokenizer.base.save_pretrained(tmp_path)
    again = load_scorer_tokenizer(tmp_path)
    again.check_rows(601)
    prompt = chat_prompt("add a bowl", "following")
    np.testing.assert_array_equal(again.encode(prompt), tokenizer.encode(prompt))


@pytest.mark.parametrize("rows", [600, 602, 152064])
def test_other_embedding_rows_are_reported(tokenizer, rows):
    tokenizer.check_rows(601)
    with pytest.raises(ValueError, match=f"600.*{rows} embedding rows.*base=.*601 rows"):
        tokenizer.check_rows(rows)


def test_rows_follow_from_the_tensors():
    shapes = {"model.language_model.embed_tokens.weight": (601, 8), "lm_head.weight": (601, 8)}
    assert reward_rows(shapes) is None
    assert reward_rows({**shapes, "rm_head.0.weight": (4, 8)}) == 601
    assert reward_rows({**shapes, "rm_heads.head_0.0.weight": (4, 8)}) == 601
    assert reward_rows({"rm_head.0.weight": (4, 8)}) is None


def test_another_models_tokenizer_is_reported(directory, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((directory / name).read_text("utf-8").replace("image_pad", "picture"), "utf-8")
    with pytest.raises(ValueError, match=r"has no <\|image_pad\|>"):
        load_scorer_tokenizer(tmp_path)


def test_damaged_files_are_reported(directory, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes()[:500])
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*again"):
        load_scorer_tokenizer(tmp_path)


def test_missing_files_are_named_with_the_remedy(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks tokenizer\.json and tokenizer_config\.json.*base="):
        load_scorer_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"lacks tokenizer_config\.json,"):
        load_scorer_tokenizer(tmp_path)


def test_a_base_without_files_is_reported(tmp_path):
    (tmp_path / "base").mkdir()
    with pytest.raises(FileNotFoundError, match=r"base=.*lacks tokenizer\.json"):
        load_scorer_tokenizer(tmp_path, base=tmp_path / "base")


def test_a_base_that_is_no_directory_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="base=/nowhere/base"):
        load_scorer_tokenizer(tmp_path, base="/nowhere/base")


def test_a_base_that_is_out_of_reach_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = r"base=no/body .*OfflineModeIsEnabled.*hf download no/body tokenizer"
    with pytest.raises(FileNotFoundError, match=found):
        load_scorer_tokenizer(tmp_path, base="no/body")


def test_a_base_that_was_downloaded_is_found_without_network(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--owner--base"
    shutil.copytree(directory, repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    assert load_scorer_tokenizer(tmp_path, base="owner/base").reward_id == 600


def test_a_base_on_the_hub_is_downloaded(directory, tmp_path, monkeypatch):
    asked = []

    def download(repo, allow_patterns):
        asked.append((repo, *allow_patterns))
        return str(directory)

    api = SimpleNamespace(model_info=lambda repo, timeout: SimpleNamespace(siblings=[]))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_scorer_tokenizer(tmp_path, base="owner/base").reward_id == 600
    (names,) = asked
    assert {"owner/base", "tokenizer.json", "tokenizer_config.json", "chat_template.json"} <= set(names)
    assert not [name for name in names if "safetensors" in name or name.startswith("*")]


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja", "chat_template.json"])
@pytest.mark.parametrize(
    ("template", "system"),
    [
        (QWENS, QWEN_SYSTEM),
        (IN_THE_TEXT, "Be bold."),
        (IN_A_VARIABLE, "You are Mo,\nmade up."),
        (TURNS, NO_SYSTEM),
        (EMPTY, ""),
    ],
)
def test_the_system_text_is_the_chat_templates(with_template, template, system, file):
    assert with_template(template, file).default_system() == system


@pytest.mark.parametrize("template", [QWENS, IN_THE_TEXT, IN_A_VARIABLE, TURNS, EMPTY])
def test_prompts_begin_as_the_chat_template_says(with_template, template):
    tokenizer = with_template(template)
    rendered = tokenizer.base.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    prompt = chat_prompt("add a bowl", PERSPECTIVES[0], tokenizer.default_system())
    assert prompt.startswith(rendered[: rendered.index("?")] + "<|vision_start|>")


def test_a_template_renders_published_prompts_to_the_byte(with_template):
    tokenizer = with_template(QWENS, "chat_template.json")
    text = chat_prompt("add a bowl", "quality").rpartition("<|vision_end|>")[2].partition("<|im_end|>")[0]
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]
    rendered = tokenizer.base.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert chat_prompt("add a bowl", "quality", tokenizer.default_system()) == rendered


def test_the_processors_template_goes_before_the_tokenizers(with_template):
    with_template(TURNS, "chat_template.jinja")
    assert with_template(IN_THE_TEXT, "chat_template.json").default_system() == "Be bold."


def test_a_saved_tokenizer_keeps_its_template(with_template, tmp_path):
    with_template(IN_THE_TEXT, "chat_template.json").base.save_pretrained(tmp_path / "saved")
    assert load_scorer_tokenizer(tmp_path / "saved").default_system() == "Be bold."


def test_without_a_template_qwens_text_is_used_with_a_warning(tokenizer, caplog):
    with caplog.at_level(logging.WARNING, "absl"):
        assert tokenizer.default_system() == QWEN_SYSTEM
    assert "chat template" in caplog.text
    assert "reward_model.system" in caplog.text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("[INST] {{ messages[0].content }} [/INST]", r"'\[INST\] - \[/INST\]'"),
        ("{{ raise_exception('images only') }}", "images only"),
        ("{{ messages[0].content + 1 }}", "cannot be rendered"),
        ("{% if", "cannot be rendered"),
    ],
)
def test_a_template_of_another_form_is_reported(with_template, template, message):
    with pytest.raises(ValueError, match=f"{message}.*reward_model.system"):
        with_template(template).default_system()


@pytest.mark.parametrize("token", [*SPECIAL, REWARD_TOKEN, "[MASK]"])
def test_special_tokens_of_the_tokenizer_are_refused_in_instructions(directory, tmp_path, token):
    base = load_scorer_tokenizer(directory).base
    base.add_tokens([AddedToken("[MASK]", special=True)], special_tokens=True)
    base.save_pretrained(tmp_path)
    tokenizer = load_scorer_tokenizer(tmp_path)
    for system in (QWEN_SYSTEM, NO_SYSTEM):
        tokenizer.encode(chat_prompt("add a [bowl] <|here|>", "quality", system))
    with pytest.raises(ValueError, match="reserved token") as error:
        tokenizer.encode(chat_prompt(f"add {token} here", "quality"))
    assert token in str(error.value)
