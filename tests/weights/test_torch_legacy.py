"""Files of PyTorch before 1.6: written by hand here, and by PyTorch in the oracle tests."""

import pickle
from collections import OrderedDict
from functools import reduce

import numpy as np
import pytest
from torch_files import Call, Global, Part, pickled, save_torch_zip

from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.files import TensorFiles
from rewardedit_jax.weights.safe_pickle import UnsafePickle
from rewardedit_jax.weights.torch_legacy import read_torch_legacy

BUFFER = np.arange(60, dtype=np.float32)
NUMBER = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def save(value, file, system=SYSTEM, protocol=1001, keys=None):
    """Writes a file of the old form. The storages follow in the order of `keys`."""
    content, storages = pickled(value)
    keys = [str(key) for key in reversed(range(len(storages)))] if keys is None else keys
    head = [pickle.dumps(part, 2) for part in (NUMBER, protocol, system)]
    body = [
        storages[int(key)].size.to_bytes(8, "little") + storages[int(key)].tobytes() for key in keys if key.isdigit()
    ]
    file.write_bytes(b"".join([*head, content, pickle.dumps(keys, 2), *body]))
    return file


def state():
    return OrderedDict(
        a=BUFFER.reshape(3, 20), b=Part(BUFFER[:12].copy(), 1, (3, 2), (4, 1)), c=np.arange(3), d=np.ones(())
    )


def test_tensors(tmp_path):
    found = read_torch_legacy(save(state(), tmp_path / "m.pth"))
    expected = {"a": BUFFER.reshape(3, 20), "b": BUFFER[:12].reshape(3, 4)[:, 1:3], "c": np.arange(3), "d": np.ones(())}
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor, strict=True)


def test_both_forms_are_read_by_what_is_in_them(tmp_path):
    files = [save({"a": BUFFER}, tmp_path / "a.pth"), save_torch_zip({"b": BUFFER}, tmp_path / "b.pth")]
    tensors = TensorFiles(files)
    assert tensors.shapes == {"a": (60,), "b": (60,)}
    for name in tensors:
        np.testing.assert_array_equal(tensors[name], BUFFER)


def test_a_forbidden_global_is_named(tmp_path):
    with pytest.raises(UnsafePickle, match=r"m\.pth: .*os\.system"):
        read_torch_legacy(save({"a": Call(Global("os", "system"), ("touch x",))}, tmp_path / "m.pth"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"system": {**SYSTEM, "little_endian": False}}, "little-endian"),
        ({"system": []}, "little-endian"),
        ({"system": reduce(lambda inner, _: [inner], range(200), [])}, "little-endian"),
        ({"protocol": 1000}, "1001"),
        ({"keys": ["x"]}, "list of storages"),
        ({"keys": []}, "storage 0, which is missing"),
    ],
)
def test_another_form_is_said(tmp_path, settings, told):
    with pytest.raises(WeightFileError, match=rf"m\.pth: .*{told}"):
        read_torch_legacy(save({"a": BUFFER}, tmp_path / "m.pth", **settings))


def test_truncated_files_are_said(tmp_path):
    content = save(state(), tmp_path / "m.pth").read_bytes()
    for keep in range(0, len(content), 7):
        (tmp_path / "m.pth").write_bytes(content[:keep])
        with pytest.raises(WeightFileError, match=r"cannot read .*m\.pth: "):
            read_torch_legacy(tmp_path / "m.pth")


def test_a_zip_is_not_of_this_form(tmp_path):
    with pytest.raises(WeightFileError, match=r"not a file of torch\.save before 1\.6"):
        read_torch_legacy(save_torch_zip({"a": BUFFER}, tmp_path / "m.pth"))
