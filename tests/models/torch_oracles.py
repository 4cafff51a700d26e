"""transformers' PyTorch networks with random weights, and comparisons of ours with them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import export_tensors, import_tensors

torch = pytest.importorskip("torch")

WEIGHTS = "model.safetensors"


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make_oracle(kind, config):
    """transformers' network with unit-scale weights: those it starts from are small enough to hide a fault."""
    torch.manual_seed(0)
    oracle = kind(config).eval()
    with torch.no_grad():
        for name, p in oracle.named_parameters():
            x = torch.randn_like(p)
            if p.ndim < 2:
                p.copy_(0.1 * x + (not name.endswith("bias")))
            else:
                p.copy_(x if "embeddings." in name and p.ndim in (2, 3) else x / p[0].numel() ** 0.5)
    return oracle


def read(tensors, module, table):
    wanted = abstract_params(module)
    return import_tensors(tensors, table(module.config), wanted)


def load(directory, kind, config_kind, table):
    """Our network and parameters from a directory that transformers wrote."""
    module = kind(config_kind.from_hf(json.loads((directory / "config.json").read_text())))
    return module, read(load_file(directory / WEIGHTS), module, table)


def save(module, params, table, directory):
    directory.mkdir()
    save_file(export_tensors(params, table(module.config)), directory / WEIGHTS, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(module.config.to_hf()))


def call(module, params, *inputs):
    return jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs))(params, *map(jnp.asarray, inputs))


def nchw(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def assert_same_states(states, expected):
    for name, value in expected.items():
        value = value.detach().numpy()
        assert value.std() > 0.3, name  # unit scale, so that the absolute bound means something
        np.testing.assert_allclose(getattr(states, name), value, atol=2e-5, err_msg=name)


def assert_same_gradients(module, params, x, oracle, expected, table):
    """Gradients of one random linear function of all states, by every parameter."""
    weights = {name: normal(*value.shape, seed=i) for i, (name, value) in enumerate(expected.items())}

    def loss(params):
        states = module.apply({"params": params}, jnp.asarray(x))
        return sum((getattr(states, name) * w).sum() for name, w in weights.items())

    sum((expected[name] * torch.from_numpy(w)).sum() for name, w in weights.items()).backward()
    theirs = {name: p.grad.numpy() for name, p in oracle.named_parameters()}
    theirs = flatten_dict(read(theirs, module, table), sep="/")
    ours = flatten_dict(jax.jit(jax.grad(loss))(params), sep="/")
    whole = np.sqrt(sum((g**2).sum() for g in theirs.values()))
    for path, gradient in ours.items():
        error, norm = np.linalg.norm(gradient - theirs[path]), np.linalg.norm(theirs[path])
        # A bias of all keys alike cancels in the softmax: its gradient is 0 but for rounding, on both sides.
        if path.endswith("k_proj/bias"):
            assert max(norm, np.linalg.norm(gradient)) < 1e-5 * whole, path
        else:
            assert norm > 1e-4 * whole, path
            assert error < 1e-4 * norm, path


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
