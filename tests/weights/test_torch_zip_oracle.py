"""Files that PyTorch writes, in all forms that hold tensors: what is read equals what PyTorch reads."""

from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.torch_legacy import read_torch_legacy
from rewardedit_jax.weights.torch_zip import UnsafePickle, read_torch_zip

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")

# Their storages have classes of their own, which both forms name.
CLASSIC = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()  # noqa: SIM905
NEW = "uint16 uint32 uint64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu".split()  # noqa: SIM905
READERS = {True: read_torch_zip, False: read_torch_legacy}


def save(value, file, in_zip=True, **settings):
    torch.save(value, file, _use_new_zipfile_serialization=in_zip, **settings)
    return file


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        value, type_name = found[name], str(tensor.dtype).removeprefix("torch.")
        assert value.dtype == np.dtype(getattr(ml_dtypes, type_name, type_name))
        assert value.shape == tuple(tensor.shape)
        content = tensor.detach().resolve_conj().contiguous().flatten()
        assert value.tobytes() == content.view(torch.uint8).numpy().tobytes()


def drawn(dtype, *shape):
    bits = torch.randint(0, 2, (*shape, 8), generator=torch.Generator().manual_seed(0)).to(torch.float32)
    return bits.sum(-1).to(getattr(torch, dtype))


@pytest.mark.parametrize("in_zip", [True, False])
@pytest.mark.parametrize("dtype", CLASSIC + NEW)
def test_types(tmp_path, dtype, in_zip):
    state = {"matrix": drawn(dtype, 3, 5), "scalar": drawn(dtype), "empty": torch.zeros(0, 4).to(getattr(torch, dtype))}
    assert_same(READERS[in_zip](save(state, tmp_path / "m.pt", in_zip)), state)


@pytest.mark.parametrize("in_zip", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_parts_of_storages(tmp_path, in_zip, protocol):
    x = torch.randn(6, 8, 4)
    state = OrderedDict(
        whole=x,
        tied=x,
        rows=x[2:4],
        columns=x[:, 3:5],
        steps=x[::2, 1::3],
        transposed=x.transpose(0, 2),
        permuted=x.permute(1, 2, 0),
        one=x[3, 2, 1],
        none=x[6:],
        expanded=x[:, :1].expand(6, 3, 4),
        flat=x.view(-1)[7:150],
        diagonal=x[0].diagonal(),
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        unfolded=torch.arange(10.0).unfold(0, 3, 1),
    )
    assert_same(READERS[in_zip](save(state, tmp_path / "m.pt", in_zip, pickle_protocol=protocol)), state)


@pytest.mark.parametrize("in_zip", [True, False])
def test_a_module(tmp_path, in_zip):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.LSTM(4, 4))
    state = module.state_dict()
    assert state._metadata
    assert_same(READERS[in_zip](save(state, tmp_path / "m.pth", in_zip)), state)
    parameters = dict(module.named_parameters())
    assert_same(READERS[in_zip](save(parameters, tmp_path / "p.pth", in_zip)), parameters)


@pytest.mark.parametrize("in_zip", [True, False])
def test_a_training_checkpoint(tmp_path, in_zip):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "epoch": 3, "dtype": torch.float16, "sizes": torch.Size([1, 2])}
    state |= {
        "device": torch.device("cuda", 0),
        "raw": b"\0\xff",
        "none": b"",
        "storage": torch.ones(3).untyped_storage(),
    }
    state["model"] = model.state_dict()
    assert_same(READERS[in_zip](save(state, tmp_path / "m.pth", in_zip)), model.state_dict())
    state["net"] = state.pop("model")
    found = READERS[in_zip](save(state, tmp_path / "n.pth", in_zip))
    assert found.shapes["net.weight"] == (2, 3)
    np.testing.assert_array_equal(found["optimizer.state.0.exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        save({"a": torch.ones(3)}, tmp_path / "m.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read_torch_zip(tmp_path / "m.pt"), {"a": torch.ones(3)})


@pytest.mark.parametrize("in_zip", [True, False])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: torch.nn.Linear(2, 2), "Linear"),
        (lambda: torch.ones(2, 2).to_sparse(), "_rebuild_sparse_tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "_rebuild_qtensor"),
        (lambda: np.float64(3), "numpy"),
        (lambda: {1, 2}, r"builtins\.set"),
    ],
    ids=["module", "sparse", "quantised", "numpy", "set"],
)
@pytest.mark.filterwarnings("ignore")
def test_other_objects_are_refused(tmp_path, make, told, in_zip):
    with pytest.raises(UnsafePickle, match=told):
        READERS[in_zip](save({"a": torch.ones(2), "b": make()}, tmp_path / "m.pt", in_zip))


def test_conjugates_are_refused(tmp_path):
    with pytest.raises(WeightFileError, match="resolve_conj"):
        read_torch_zip(save({"a": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "m.pt"))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(WeightFileError, match="TorchScript"):
        read_torch_zip(tmp_path / "m.pt")


def test_the_printed_conversion_of_the_old_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"a": torch.arange(6.0).reshape(2, 3)}
    save(state, tmp_path / "m.pt", in_zip=False)
    with pytest.raises(WeightFileError, match=r"before 1\.6") as error:
        read_torch_zip(tmp_path / "m.pt")
    exec(str(error.value).partition(" installed: ")[2].rstrip("."), {"torch": torch})
    assert_same(read_torch_zip(tmp_path / "m.pt"), state)


@pytest.mark.skipif(not find_spec("lpips"), reason="the package lpips is absent")
def test_the_heads_of_lpips():
    """Their form is that of before PyTorch 1.6, pickled by Python 2 on a GPU."""
    files = sorted(Path(find_spec("lpips").origin).parent.glob("weights/v0.?/*.pth"))
    assert len(files) == 6
    for file in files:
        assert_same(read_torch_legacy(file), torch.load(file, "cpu", weights_only=True))
