"""A regression small enough to train in every test: a frozen random feature map, and an MLP that trains on it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

WIDTH = 16


def toy_config(**changes) -> ConfigDict:
    config = ConfigDict(
        {
            "seed": 3,
            "steps": 6,
            "batch_size": 8,
            "accumulate": 1,
            "log_every": 1,
            "checkpoint_every": 0,
            "evaluate_every": 0,
            "keep_checkpoints": 3,
            "nonfinite": "stop",
            "stall_seconds": None,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "optimizer": {
                "learning_rate": 1e-2,
                "schedule": "constant",
                "warmup_steps": 0,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 1e-2,
                "clip_norm": 1.0,
                "ema_decay": 0.9,
                "mu_dtype": None,
                "eight_bit": False,
            },
        },
        type_safe=False,
    )
    config.update_from_flattened_dict(changes)
    return config


def records(workdir: Path, *, timed: bool = False) -> list[dict]:
    """What metrics.jsonl says; without speeds, which differ from run to run, unless they are asked for."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: x for name, x in line.items() if timed or name != "examples_per_second"} for line in lines]


class ToyTask:
    """y = sum of sines of x, learned by head(features(x)); `noise` perturbs the input, so that the key matters."""

    trainable = (("head/.*", True), ("features/.*", False))
    partition_rules = (
        (r".*/kernel", P("fsdp", "tensor")),
        (r".*/bias", P()),
    )

    def __init__(self, config: ConfigDict, *, noise: float = 0.0, nan_at: int | None = None, evaluator=None):
        self.config, self.noise, self.nan_at, self.evaluator = config, noise, nan_at, evaluator

    def abstract_params(self):
        return jax.eval_shape(self.init, jax.random.key(0))

    def init(self, rng, wanted=None):
        def dense(rng, shape):
            return {"kernel": jax.random.normal(rng, shape) / shape[0] ** 0.5, "bias": jnp.zeros(shape[1])}

        rngs = jax.random.split(rng, 3)
        head = {"hidden": dense(rngs[1], (WIDTH, WIDTH)), "out": dense(rngs[2], (WIDTH, 4))}
        flat = flatten_dict({"features": dense(rngs[0], (4, WIDTH)), "head": head}, sep="/")
        return unflatten_dict({path: x for path, x in flat.items() if wanted is None or wanted(path)}, sep="/")

    def loss(self, params, batch, rng):
        x = batch["x"] + self.noise * jax.random.normal(rng, batch["x"].shape)
        h = jnp.sin(x @ params["features"]["kernel"] + params["features"]["bias"])
        h = jax.nn.gelu(h @ params["head"]["hidden"]["kernel"] + params["head"]["hidden"]["bias"])
        y = h @ params["head"]["out"]["kernel"] + params["head"]["out"]["bias"]
        error = jnp.square(y - batch["y"]).mean(axis=-1)
        return error, {"error": error, "largest": jnp.abs(y).max()}

    def batches(self, start):
        n = self.config.batch_size * self.config.accumulate
        local = n // jax.process_count()
        mine = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
        while True:
            x = np.random.default_rng([7, start]).standard_normal((n, 4), dtype=np.float32)
            y = np.sin(2 * x) + np.roll(x, 1, axis=-1)
            if start == self.nan_at:
                x[0, 0] = np.nan
            yield {"x": x[mine], "y": y[mine]}
            start += 1

    def evaluators(self):
        return {} if self.evaluator is None else {"val": self.evaluator}

    def export(self, params, directory: Path):
        directory.mkdir(exist_ok=True)
        leaves = jax.tree_util.tree_leaves_with_path(params)
        np.savez(directory / "params.npz", **{jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves})
