"""The networks on this device against the reference outputs in tests/references, in float32 and in bfloat16.

  python benchmarks/parity.py

In float32 the largest difference must not exceed the tolerance of tests/references/README.md, which holds for full
products. An accelerator's default rounds their factors to TF32: that, and bfloat16, have no bound there, and their
errors are relative, in the Euclidean norm, with a bound of 0.02 and 0.1 against mistakes.
"""

import json
import runpy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from networks import ROOT
from reporting import print_rows
from safetensors.numpy import save_file
from timing import Row

from rewardedit_jax.params import Params
from rewardedit_jax.weights.pretrained import load_pretrained

_REFERENCES = ROOT / "tests" / "references"


class Check(NamedTuple):
    """A network on given inputs."""

    name: str
    directory: str  # below the folder of the drawn weights
    run: Callable[[nn.Module, Params], Any]
    expected: np.ndarray
    tolerance: float


class Precision(NamedTuple):
    name: str
    dtype: str
    products: str  # of `jax.default_matmul_precision`
    relative: float | None  # bound of the relative error; None: the tolerance of the reference holds


FLOAT32 = Precision("float32, full products", "float32", "highest", None)
_TF32 = Precision("float32, TF32 products", "float32", "tensorfloat32", 0.02)
_BFLOAT16 = Precision("bfloat16", "bfloat16", "default", 0.1)


def _nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1)


def checks(folder: Path) -> Iterator[Check]:
    """Draws the weights of the reference networks into `folder`, and yields what to compare."""
    editor = _REFERENCES / "editor_a"
    script = runpy.run_path(str(editor / "make_editor_dir.py"))
    script["write_editor_dir"](json.loads((editor / "editor_a.json").read_text("utf-8")), folder)
    text, vae, unet = (dict(np.load(editor / f"{name}.npz")) for name in ("text", "vae", "unet"))
    ids, images, latents = (jnp.asarray(x) for x in (text["token_ids"], _nhwc(vae["images"]), _nhwc(vae["latents"])))
    read = lambda m, p: m.apply({"params": p}, ids).last_hidden  # noqa: E731
    encode = lambda m, p: m.apply({"params": p}, images, method="encode").mean  # noqa: E731
    decode = lambda m, p: m.apply({"params": p}, latents, method="decode")  # noqa: E731
    context, pooled = text["last_hidden"][unet["context_rows"]], text["pooled"][unet["pooled_rows"]]
    inputs = [jnp.asarray(x) for x in (_nhwc(unet["sample"]), unet["timestep"], context, unet["scores"], pooled)]
    predict = lambda m, p: m.apply({"params": p}, *inputs)  # noqa: E731
    yield Check("reward U-Net", "unet", predict, _nhwc(unet["expected"]), 3e-5)
    yield Check("text encoder, last hidden", "text_encoder", read, text["last_hidden"], 3e-5)
    yield Check("VAE, mean", "vae", encode, _nhwc(vae["mean"]), 2e-5)
    yield Check("VAE, decoded", "vae", decode, _nhwc(vae["decoded"]), 3e-5)
    yield from _scorer_checks(folder / "scorer", script["draw"])


def _scorer_checks(folder: Path, draw: Callable[..., np.ndarray]) -> Iterator[Check]:
    described = json.loads((_REFERENCES / "edit_reward_a.json").read_text("utf-8"))
    arrays = dict(np.load(_REFERENCES / "edit_reward_a.npz"))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(described["config"]))
    tensors = {name: draw(name, tuple(shape), described["seed"]) for name, shape in described["state_dict"].items()}
    save_file(tensors, folder / "model.safetensors")
    for head, prompt in enumerate(("dim1", "dim2")):
        inputs = arrays[f"input_ids_{prompt}"], arrays[f"attention_mask_{prompt}"], arrays["pixel_values"]

        def score(module: nn.Module, params: Params, inputs: Any = inputs, head: int = head) -> jax.Array:
            return module.apply({"params": params}, *inputs, arrays["image_grid_thw"], head=head).outputs

        yield Check(f"scorer, head {head}", "scorer", score, arrays[f"expected_head_{head}"], 1e-5)


def compare(check: Check, module: nn.Module, params: Params, precision: Precision) -> Row:
    """The largest difference, with a note if it is above what is allowed."""
    with jax.default_matmul_precision(precision.products):
        module = module.clone(dtype=precision.dtype)
        found = np.asarray(jax.jit(lambda params: check.run(module, params))(params), np.float32)
    difference = float(np.abs(found - check.expected).max())
    relative = float(np.linalg.norm(found - check.expected) / np.linalg.norm(check.expected))
    bound = check.tolerance if precision.relative is None else precision.relative
    more = {"relative": relative, "allowed": bound}
    # "not" of the opposite, so that NaN exceeds every bound.
    exceeded = not (difference if precision.relative is None else relative) <= bound
    return Row(f"{check.name}, {precision.name}", difference, "", note="EXCEEDED" if exceeded else "", more=more)


def rows(size: str) -> Iterator[Row]:
    # On a CPU all float32 products are full.
    rounded = () if jax.default_backend() == "cpu" else (_TF32,)
    with tempfile.TemporaryDirectory() as folder:
        for check in checks(Path(folder)):
            module, params = load_pretrained(Path(folder) / check.directory)
            params = jax.tree.map(jnp.asarray, params)
            for precision in (FLOAT32, *rounded, _BFLOAT16):
                yield compare(check, module, params, precision)


if __name__ == "__main__":
    print_rows(__doc__, rows)
