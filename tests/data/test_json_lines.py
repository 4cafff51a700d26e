import pytest

from rewardedit_jax.data.json_lines import numbered_lines


def test_lines_have_their_numbers_in_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"a": "\u2028"}\r\n \n{}\n', "utf-8")
    lines = [(n, line.strip()) for n, line in numbered_lines(tmp_path / "a.jsonl")]
    assert lines == [(1, '{"a": "\u2028"}'), (3, "{}")]


def test_another_encoding_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.jsonl is no UTF-8 text .*: save it as such"):
        numbered_lines(tmp_path / "a.jsonl")
