"""The interpreter of pickles gives plain values, calls nothing, and names what it refuses."""

import io
import pickle
from collections import OrderedDict

import pytest

from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.safe_pickle import Constructor, UnsafePickle, dictionary_of, read_pickle

KNOWN = {
    "collections.OrderedDict": Constructor(lambda pairs=(): dictionary_of(pairs)),
    "_codecs.encode": Constructor(lambda text, _: text.encode("latin-1")),
    "torch.float32": "float32",
}


def read(content, known=KNOWN):
    return read_pickle(io.BytesIO(content), known)


VALUES = [
    {"a": [1, 2.5, None, True, False], "b": ("x", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))},
    [0, 255, 65535, -1, 2**40, -(2**70), "ü€", "", 1e300, float("-inf")],
    {1: "a", None: "b", 2.5: "c", "n": {"d": {}}},
    OrderedDict([("b", 1), ("a", [OrderedDict()])]),
    "a" * 70_000,
    {str(i): i for i in range(3000)},  # more marks and memo entries than one byte counts
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_plain_values_are_those_of_python(value, protocol):
    found = read(pickle.dumps(value, protocol))
    assert found == value
    if isinstance(value, OrderedDict):
        assert list(found) == list(value)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_bytes(protocol):
    assert read(pickle.dumps({"a": b"\0\xff"}, protocol)) == {"a": b"\0\xff"}


def test_the_same_object_stays_one():
    shared = [1]
    found = read(pickle.dumps({"a": shared, "b": shared}))
    assert found["a"] is found["b"]


def test_an_attribute_of_an_ordered_dict_is_dropped():
    state = OrderedDict(a=1)
    state._metadata = OrderedDict(version=1)
    found = read(pickle.dumps(state, 2))
    assert found == {"a": 1}
    assert type(found) is dict


def test_several_pickles_in_a_row():
    stream = io.BytesIO(pickle.dumps([1]) + pickle.dumps("two") + b"rest")
    assert [read_pickle(stream, {}), read_pickle(stream, {}), stream.read()] == [[1], "two", b"rest"]


def test_a_persistent_id_is_given_to_the_caller():
    assert read_pickle(io.BytesIO(b"\x80\x02X\x01\x00\x00\x00kQ."), {}, lambda identity: ("was", identity)) == (
        "was",
        "k",
    )


class Evil:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [(eval, "1", "builtins.eval"), (getattr, 1, "builtins.getattr"), (io.open, "x", "open"), (exec, "1", "exec")],
)
def test_what_python_would_call_is_named(function, argument, name, protocol):
    with pytest.raises(UnsafePickle, match=name):
        read(pickle.dumps({"a": Evil(function, argument)}, protocol))


def test_a_global_is_named_as_it_is_known_too():
    with pytest.raises(UnsafePickle, match=r"names posix\.system \(os\.system\), but"):
        read(b"cposix\nsystem\n(S'x'\ntR.")


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        (b"ctrap\ntrap\n.", "trap.trap"),
        (b"ctrap\ntrap\n)R.", "trap.trap"),
        (b"cos\nsystem\n(S'x'\ntR.", "os.system"),
        (b"\x80\x02c__builtin__\neval\n(X\x01\x00\x00\x001tR.", r"__builtin__\.eval \(builtins\.eval\)"),
        (b"\x80\x04\x8c\x04trap\x8c\x04trap\x93)R.", "trap.trap"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.__reduce__\x93.", "OrderedDict.__reduce__"),
        (b"(S'x'\nitrap\ntrap\n.", "calls trap.trap"),
        (b"(ctrap\ntrap\nS'x'\no.", "trap.trap"),
        (b"ctrap\ntrap\n)\x81.", "trap.trap"),
        (b"ctorch\nload\n(S'x'\ntR.", "torch.load"),
        (b"cfunctools\npartial\n.", "functools.partial"),
        (b"ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
        (b"ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "NEWOBJ_EX"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"(icollections\nOrderedDict\n.", "calls collections.OrderedDict"),
        (b"\x82\x05.", "EXT1"),
        (b"\x83\x05\x00.", "EXT2"),
        (b"\x84\x05\x00\x00\x00.", "EXT4"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"Pname\n.", "PERSID"),
        (b"ccollections\nOrderedDict\n)R)R.", "calls a value of type dict"),
        (b"ctorch\nfloat32\n)R.", "calls a value of type str"),
        (b"ccollections\nOrderedDict\n}S'build'\nNsb.", "sets attributes"),
        (b"]}S'append'\nNsb.", "sets attributes"),
    ],
)
def test_nothing_is_called_made_or_set(calls, content, refused):
    with pytest.raises(UnsafePickle, match=refused):
        read(content)
    assert calls == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"N",
        b"\x80\x02}q\x00(X\x01",
        b"}",
        b"0.",
        b"t.",
        b"a.",
        b"Na.",
        b"}NNNu.",
        b"}(NNNu.",
        b"](NN(NNu.",
        b"h\x05.",
        b"q\x05.",
        b"\xff.",
        b"Iab\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"\x8b\xff\xff\xff\xff.",  # a length of -1
        b"X\xff\xff\xff\x7fabc.",  # two GiB of text
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x00abc.",
        b"N\x93.",
        b"NN\x93.",
        b"}]Ns.",  # a list as a key
        b"}))\x85Ns.",
        b"ccollections\nOrderedDict\nNR.",
        b"ccollections\nOrderedDict\n(NNtR.",
        b"ccollections\nOrderedDict\nK\x05\x85R.",
        b"NR.",
    ],
)
def test_a_damaged_pickle_is_said(content):
    with pytest.raises(WeightFileError, match=r"pickle is damaged .*again") as error:
        read(content)
    assert not isinstance(error.value, UnsafePickle)


def test_a_memo_index_takes_no_memory():
    assert read(b"Nr\xff\xff\xff\x7fj\xff\xff\xff\x7f.") is None


def test_a_key_is_never_hashed_by_recursion():
    with pytest.raises(WeightFileError, match="key of another type"):
        read(b"}" + b")" + b"\x85" * 30_000 + b"Ns.")


def test_deep_containers_are_read():
    assert read(b"]" * 30_000 + b"a" * 29_999 + b".")


def test_a_list_that_is_passed_again_and_again_is_refused():
    pairs = pickle.dumps([[str(i), i] for i in range(1000)], 2)[:-1]
    again = b"0ccollections\nOrderedDict\nh\xff\x85R"
    assert len(read(pairs + b"q\xff" + again + b".")) == 1000
    with pytest.raises(WeightFileError, match="again and again"):
        read(pairs + b"q\xff" + 500 * again + b".")
