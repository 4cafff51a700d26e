import re

import pytest
from toy_llama import NORMAL, SETTINGS, USER_DEFINED, toy_pieces, write_model

from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.sentencepiece_model import read_sentencepiece


def test_pieces_have_their_ids(tmp_path):
    pieces = toy_pieces()
    vocabulary = read_sentencepiece(write_model(tmp_path / "tokenizer.model", pieces)).vocabulary
    assert vocabulary == {text: i for i, (text, _, _) in enumerate(pieces)}


def test_merges_are_all_splits_by_the_score_of_the_whole(tmp_path):
    pieces = [("a", -9.0, NORMAL), ("b", -9.0, NORMAL), ("aa", -3.0, NORMAL), ("aab", -1.0, NORMAL)]
    pieces += [("ab", -2.0, NORMAL), ("aaa", -4.0, NORMAL)]
    merges = read_sentencepiece(write_model(tmp_path / "tokenizer.model", pieces)).merges
    assert merges == [("aa", "b"), ("a", "ab"), ("a", "b"), ("a", "a"), ("aa", "a"), ("a", "aa")]


def test_bytes_and_special_tokens_take_no_part_in_merges(tmp_path):
    pieces = [
        *toy_pieces(),
        ("<0x41", -1.0, NORMAL),
        ("<s", -1.0, NORMAL),
        (">", -1.0, NORMAL),
        ("<0x42", -1.0, NORMAL),
    ]
    merges = read_sentencepiece(write_model(tmp_path / "tokenizer.model", pieces)).merges
    assert not {"<0x41>", "<s>"} & {"".join(pair) for pair in merges}


def test_unknown_fields_of_every_wire_type_are_passed_over(tmp_path):
    file = write_model(tmp_path / "tokenizer.model", toy_pieces())
    known = read_sentencepiece(file)
    # Fields 9 to 12: a varint of two groups, eight bytes, a text, four bytes.
    file.write_bytes(file.read_bytes() + b"\x48\x80\x01" + b"\x51" + bytes(8) + b"\x5a\x02hi" + b"\x65" + bytes(4))
    assert read_sentencepiece(file) == known


@pytest.mark.parametrize(
    ("part", "number", "value", "named"),
    [
        (0, 3, 1, "model_type=1: expected 2"),
        (0, 24, 1, "treat_whitespace_as_suffix=1"),
        (0, 35, 0, "byte_fallback=0: expected 1"),
        (1, 2, b"nfkc", "precompiled_charsmap=b'nfkc'"),
        (1, 3, 0, "add_dummy_prefix=0"),
        (1, 4, 1, "remove_extra_whitespaces=1"),
        (1, 5, 0, "escape_whitespaces=0"),
    ],
)
def test_other_settings_than_llamas_are_refused(tmp_path, part, number, value, named):
    settings = [dict(fields) for fields in SETTINGS]
    settings[part][number] = value
    file = write_model(tmp_path / "tokenizer.model", toy_pieces(), settings)
    with pytest.raises(WeightFileError, match=f"{re.escape(str(file))}: {re.escape(named)}"):
        read_sentencepiece(file)


def test_user_defined_pieces_are_refused(tmp_path):
    file = write_model(tmp_path / "tokenizer.model", [*toy_pieces(), ("<mark>", 0.0, USER_DEFINED)])
    with pytest.raises(WeightFileError, match="'<mark>'"):
        read_sentencepiece(file)


def test_a_file_that_was_cut_anywhere_is_refused(tmp_path):
    """At the end of a field too: what is lost then are the settings, whose defaults are not LLaMA's."""
    pieces = [*toy_pieces()[:3], ("a", -1.0, NORMAL), ("ä", -2.0, NORMAL)]
    file = write_model(tmp_path / "tokenizer.model", pieces)
    whole = file.read_bytes()
    read_sentencepiece(file)
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(WeightFileError, match=re.escape(str(file))):
            read_sentencepiece(file)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 499723\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"IQ== 0\nIg== 1\nIw== 2\n", "not a SentencePiece model"),  # the tokenizer.model of LLaMA 3 is such a list
        (bytes(range(256)), "not a SentencePiece model"),
    ],
)
def test_another_file_of_that_name_is_refused_with_the_remedy(tmp_path, content, remedy):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(WeightFileError, match=remedy):
        read_sentencepiece(tmp_path / "tokenizer.model")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightFileError, match=r"tokenizer\.model"):
        read_sentencepiece(tmp_path / "tokenizer.model")
