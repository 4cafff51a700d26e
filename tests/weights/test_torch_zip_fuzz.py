"""2,000 damaged or hostile files of PyTorch: each gives a clear error or the right tensors, and nothing is called."""

import pickletools
import random
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from torch_files import Call, Global, Part, members_of, write_zip

from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.torch_zip import read_torch_zip

FILES = 2000
BUFFER = np.arange(40, dtype=np.float32)
CANARIES = [
    b"cos\nsystem\n(S'x'\ntR",
    b"cposix\nsystem\n(S'x'\ntR",
    b"c__builtin__\neval\n(S'trap()'\ntR",
    b"cbuiltins\ngetattr\n(ctorch\nloadS'x'\ntR",
    b"cfunctools\npartial\n(ctrap\ntrap\ntR)R",
    b"ctrap\ntrap\n)R",
    b"\x8c\x04trap\x8c\x04trap\x93)R",
    b"(S'x'\nitrap\ntrap\n",
    b"(ctrap\ntrap\nS'x'\no",
    b"ctrap\ntrap\n)\x81",
    b"ctrap\ntrap\n)}\x92",
    b"\x82\x01",
    b"ccollections\nOrderedDict\n)R)R",
    b"ccollections\nOrderedDict\n)R}S'keys'\nNsb",
    b"}S'__class__'\nNsb",
    b"Ptrap\n",
    b"NQ",
    b"h\x00h\x01h\x02R",
]


def state():
    parameter = Call(
        Global("torch._utils", "_rebuild_parameter"), (Part(BUFFER, 5, (3, 4), (1, 3)), True, OrderedDict())
    )
    tensors = OrderedDict(
        a=Part(BUFFER, 0, (4, 5), (10, 2)),
        b=parameter,
        c=np.arange(7).astype(ml_dtypes.bfloat16),
        d=np.arange(3).astype(ml_dtypes.float8_e5m2),
        e=np.array(True),
        f=np.zeros((0, 3), np.int64),
        g=np.arange(40, 80, dtype=np.float32),
    )
    tensors._metadata = OrderedDict([("", {"version": 1})])
    return tensors


def flip(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def cut(content, rng):
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return rng.choice([content[:end], content[:start] + content[end:], content[start:]])


def change_pickle(content, rng):
    """The pickle with an opcode replaced, removed, repeated or followed by a canary, or with other bits."""
    starts = [place for _, _, place in pickletools.genops(content)] + [len(content)]
    i = rng.randrange(len(starts) - 1)
    start, end = starts[i : i + 2]
    codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    middle = rng.choice(
        [
            b"",
            2 * content[start:end],
            rng.choice(codes),
            rng.choice(codes) + content[start + 1 : end],
            rng.choice(CANARIES),
        ]
    )
    return rng.choice(
        [content[:start] + middle + content[end:], content[:end] + middle + content[end:], flip(content, rng)]
    )


def change_members(members, rng):
    """The members with two exchanged, one removed, renamed or of another length."""
    members = dict(members)
    one, other = rng.sample(sorted(members), 2)
    match rng.randrange(5):
        case 0:
            members[one], members[other] = members[other], members[one]
        case 1:
            del members[one]
        case 2:
            members[one + "x"] = members.pop(one)
        case 3:
            members[one] += b"x"
        case 4:
            members[one] = members[one][:-1]
    return members


def contents(file):
    return {name: (value.dtype, value.shape, value.tobytes()) for name, value in read_torch_zip(file).items()}


@pytest.mark.parametrize("protocol", [2, 4])
def test_damaged_files(tmp_path, calls, protocol):
    """Checksums find whatever is changed in a file."""
    file, rng = write_zip(tmp_path / "m.bin", members_of(state(), protocol)), random.Random(protocol)
    whole, expected, errors = file.read_bytes(), contents(file), []
    for _ in range(FILES // 4):
        file.write_bytes(rng.choice([flip, flip, cut])(whole, rng))
        try:
            assert contents(file) == expected
        except WeightFileError as error:
            errors.append(str(error))
    assert all("m.bin" in error for error in errors)
    assert FILES // 8 < len(errors) < FILES // 4  # flips of what nothing depends on, such as dates, change nothing
    assert calls == []


@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_files(tmp_path, calls, protocol):
    """Zips whose checksums are right: no tensor is larger than the file."""
    members, rng, errors = members_of(state(), protocol), random.Random(protocol), []
    pickle = members["archive/data.pkl"]
    for i in range(FILES // 4):
        changed = {**members, "archive/data.pkl": change_pickle(pickle, rng)} if i % 4 else change_members(members, rng)
        file = write_zip(tmp_path / "m.bin", changed)
        try:
            assert all(len(content) <= file.stat().st_size for _, _, content in contents(file).values())
        except WeightFileError as error:
            errors.append(str(error))
    assert all("m.bin" in error for error in errors)
    assert len(errors) > FILES // 8
    assert calls == []
