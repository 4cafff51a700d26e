"""Messages about many items show the first ones."""

from rewardedit_jax.listing import count_noun, list_lines, list_names


def test_many_names_are_cut():
    assert list_names("abc") == "a, b, c"
    assert list_names(range(12), "; ") == "0; 1; 2; 3; 4; 5; 6; 7; 8; 9 and 2 more"


def test_many_lines_are_cut():
    assert list_lines("two faults", ["a", "b"]) == "two faults\n  a\n  b"
    lines = list_lines("faults", list(map(str, range(50)))).splitlines()
    assert lines[40:] == ["  39", "  ... and 10 more"]


def test_one_is_not_in_the_plural():
    assert [count_noun(count, "pair") for count in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]
