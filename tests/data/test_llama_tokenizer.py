"""The tokenizer of SmartEdit's language model, on a toy one and on the reference SmartEdit's.

Ids of LLaMA's own 32,000 pieces are not tested: its licence does not let this project ship the file.
"""

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from toy_llama import BYTE, NORMAL, SPACES, added_tokens, toy_pieces, write_model, write_toy_tokenizer

from rewardedit_jax.data.llama_tokenizer import load_language_tokenizer
from rewardedit_jax.data.smartedit_prompts import TemplatePair, conversation
from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.sentencepiece_model import read_sentencepiece

SPECIAL = ("<unk>", "<s>", "</s>")
# What random texts are made of: words, spaces of all kinds, other scripts, emoji with joiners, and tokens.
PARTS = (
    *("the", "image", "lamp ", "aaaa", "abab", "42", "▁", "'", "É", "e\u0301"),
    *(" ", "  ", "\t", "\r", "\u00a0", "\u3000", "\u2028", "\u200b"),
    *("把天空", "한국", "🎈", "👩\u200d🚀", "\x00"),
    *(
        "<img>",
        "<im_start>",
        "<im_end>",
        "<img_0>",
        "<img_3>",
        "<img_9>",
        "<img",
        ">",
        "<unk>",
        "<s>",
        "</s>",
        "<0x41>",
    ),
)


def pieces_by_score(text, scores):
    """SentencePiece's rule, as it is written down: join the best pair of neighbours, the leftmost of equals."""
    parts = list(text)
    while pairs := [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]:
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def encode_by_the_rule(text, pieces, added):
    """The rule of the tokenizer in Python: split, strip beside added tokens, encode each part by itself."""
    ids, scores = (
        {p: i for i, (p, _, _) in enumerate(pieces)},
        {p: score for p, score, kind in pieces if kind == NORMAL},
    )
    parts = re.split("(" + "|".join(map(re.escape, (*SPECIAL, *added))) + ")", text)
    encoded = [1]
    for i, part in enumerate(parts):
        if i % 2:
            encoded.append(added[part] if part in added else ids[part])
            continue
        part = part.lstrip() if i and parts[i - 1] in added else part
        part = part.rstrip() if i + 1 < len(parts) and parts[i + 1] in added else part
        for piece in pieces_by_score("▁" + part.replace(" ", "▁"), scores) if part else ():
            encoded += [ids[piece]] if piece in scores else [ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
    return encoded


def random_texts(count, seed=0):
    draw = random.Random(seed)
    return ["".join(draw.choices(PARTS, k=draw.randint(0, 12))) for _ in range(count)]


def conversation_of(facts, case):
    images = [f"<img_{k}>" for k in range(facts["sizes"]["image_tokens"])]
    return conversation(case["instruction"], images, TemplatePair(*facts["conversation"]["pairs"][case["pair"]]))


def test_ids_are_those_of_the_published_editor(smartedit_a, smartedit_a_tokenizer):
    assert len(smartedit_a["token_cases"]) == 23
    for case in smartedit_a["token_cases"]:
        prompt, reply = conversation_of(smartedit_a, case)
        assert smartedit_a_tokenizer.encode(prompt) == case["prompt_ids"], case["instruction"]
        assert smartedit_a_tokenizer.encode(prompt + reply) == case["prompt_ids"] + case["reply_ids"]


def test_random_texts_have_the_ids_of_the_rule(toy_llama):
    pieces = toy_pieces()
    for text in random_texts(2000):
        assert toy_llama.encode(text) == encode_by_the_rule(text, pieces, added_tokens(pieces)), repr(text)


def test_random_texts_have_the_ids_of_the_rule_with_the_published_editors_pieces(
    smartedit_a, smartedit_a_tokenizer, smartedit_a_tokenizer_dir
):
    vocabulary = read_sentencepiece(smartedit_a_tokenizer_dir / "tokenizer.model").vocabulary
    # In this file scores fall with the ids, behind the special tokens and the bytes.
    pieces = [(piece, -i, NORMAL if i > 258 else BYTE) for piece, i in vocabulary.items()]
    for text in random_texts(2000, seed=1):
        assert smartedit_a_tokenizer.encode(text) == encode_by_the_rule(text, pieces, smartedit_a["added_tokens"])


@pytest.mark.parametrize("sizes", [SPACES, (2, 3, 4), (2,), (2, 5, 4, 7, 3)])
def test_runs_of_spaces_have_the_ids_of_the_rule(tmp_path, sizes):
    """All pieces of spaces have one score, so the order of their merges decides."""
    pieces = toy_pieces(sizes)
    write_model(tmp_path / "tokenizer.model", pieces)
    tokenizer = load_language_tokenizer(tmp_path)
    for size in range(70):
        for text in (" " * size, f"a{' ' * size}the", f"{' ' * size}把"):
            assert tokenizer.encode(text) == encode_by_the_rule(text, pieces, {}), repr(text)


@pytest.mark.parametrize("token", ["<img_1>", "<im_end>", "<img>"])
def test_texts_around_an_added_token_are_encoded_by_themselves(toy_llama, token):
    texts = random_texts(300, seed=2)
    for left, right in zip(texts, reversed(texts), strict=True):
        parts = [toy_llama.encode(left.rstrip())[1:], [toy_llama.added[token]], toy_llama.encode(right.lstrip())[1:]]
        assert toy_llama.encode(left + token + right) == [1, *parts[0], *parts[1], *parts[2]], (left, right)


def test_spaces_stay_beside_special_tokens(toy_llama):
    (space,) = (i for i, piece in enumerate(toy_pieces()) if piece[0] == "▁▁")
    assert toy_llama.encode("</s> <s>") == [1, 2, space, 1]
    assert toy_llama.encode("<img_0> \u3000 <img_1>") == [1, toy_llama.added["<img_0>"], toy_llama.added["<img_1>"]]
    assert toy_llama.encode("") == [1]


def test_a_saved_tokenizer_gives_equal_ids(toy_llama, tmp_path):
    toy_llama.save(tmp_path / "saved")
    again = load_language_tokenizer(tmp_path / "saved")
    assert again.digest() == toy_llama.digest()
    assert dict(again.added) == dict(toy_llama.added)
    for text in random_texts(200, seed=3):
        assert again.encode(text) == toy_llama.encode(text)


def test_transformers_reads_a_saved_tokenizer(toy_llama, tmp_path):
    from transformers import AutoTokenizer

    toy_llama.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in random_texts(200, seed=4):
        assert theirs(text)["input_ids"] == toy_llama.encode(text), repr(text)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)


def test_the_digest_tells_tokenizers_apart(toy_llama, tmp_path):
    pieces = toy_pieces()
    pieces[-1], pieces[-2] = pieces[-2], pieces[-1]
    write_model(tmp_path / "pieces" / "tokenizer.model", pieces)
    (tmp_path / "pieces" / "added_tokens.json").write_text(json.dumps(added_tokens(pieces)))
    other_pieces = load_language_tokenizer(tmp_path / "pieces")
    other_tokens = load_language_tokenizer(write_toy_tokenizer(tmp_path / "tokens", images=5))
    assert len({toy_llama.digest(), other_pieces.digest(), other_tokens.digest()}) == 3
    assert re.fullmatch(r"[0-9a-f]{16}", toy_llama.digest())


def test_merges_may_be_written_as_texts(toy_llama, tmp_path):
    """As versions of tokenizers before 0.20 write them, and as published models have them."""
    toy_llama.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert load_language_tokenizer(tmp_path).digest() == toy_llama.digest()


def test_the_rule_holds_whatever_tokenizer_json_says(toy_llama, tmp_path):
    """Newer versions of transformers write other settings, with which the published weights see other ids."""
    toy_llama.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content |= {"normalizer": None, "post_processor": None}
    content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    content["added_tokens"] = [token | {"lstrip": False, "rstrip": False} for token in content["added_tokens"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert load_language_tokenizer(tmp_path).digest() == toy_llama.digest()


def test_a_tokenizer_without_added_tokens_can_be_read(tmp_path):
    write_model(tmp_path / "tokenizer.model", toy_pieces())
    assert load_language_tokenizer(tmp_path).added == {}


def test_threads_may_share_a_tokenizer(toy_llama):
    texts = random_texts(400, seed=5)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(toy_llama.encode, texts))
    assert rows == [toy_llama.encode(text) for text in texts]


def test_missing_files_are_named_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks tokenizer\.json .*tokenizer\.model.*copy it"):
        load_language_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "Unigram"}, "model.type='Unigram'"),
        ({"byte_fallback": False}, "byte_fallback=False"),
        ({"merges": [["a", "no such piece"]]}, "no such piece"),
        ({"merges": [["a", "b", "c"]]}, "tokenizer.json"),
        ({"vocab": {"a": 0}}, "<unk>, <s>, </s>, <0x00>"),
        ({"vocab": ["a"]}, "model.vocab"),
    ],
)
def test_another_tokenizer_is_refused(toy_llama, tmp_path, change, named):
    toy_llama.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content["model"] |= change
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(WeightFileError, match=re.escape(named)):
        load_language_tokenizer(tmp_path)


def test_special_tokens_have_llamas_ids(tmp_path):
    first, second, *others = toy_pieces()
    write_model(tmp_path / "tokenizer.model", [second, first, *others])
    with pytest.raises(WeightFileError, match=r"ids \[1, 0, 2\] for <unk>, <s>, </s>"):
        load_language_tokenizer(tmp_path)


def test_ids_of_added_tokens_have_no_gap(tmp_path):
    write_toy_tokenizer(tmp_path)
    listed = json.loads((tmp_path / "added_tokens.json").read_text())
    (tmp_path / "added_tokens.json").write_text(json.dumps(listed | {"<img_3>": listed["<img_3>"] + 1}))
    with pytest.raises(WeightFileError, match=r"<img_3>.*without a gap"):
        load_language_tokenizer(tmp_path)
