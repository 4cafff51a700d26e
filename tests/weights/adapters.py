"""An editor with low-rank differences of its U-Net, its model directories, and files of such differences."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file
from tiny_models import draw, tiny_editor, tiny_unet

from rewardedit_jax.models.lora import LoRA
from rewardedit_jax.weights.pretrained import load_pretrained

TARGETS = (r".*/attn\d+/to_q", r".*/attn\d+/to_v", r".*/ff/net_2", r".*/attentions_\d+/proj_in")
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"


def adapted_editor(rank=3, alpha=6.0):
    """No matrix of it is zero."""
    editor = tiny_editor()
    unet = tiny_unet(lora=LoRA(rank, alpha, TARGETS))
    return replace(editor, base=replace(editor.base, unet=unet), params={**editor.params, "unet": draw(unet, seed=5)})


def without_lora(editor):
    plain = tiny_unet()
    params = _plain(editor.params["unet"])
    return replace(editor, base=replace(editor.base, unet=plain), params={**editor.params, "unet": params})


def save_editors(folder):
    """The editor with differences in the folder "kept", the same without in "plain"."""
    editor = adapted_editor()
    editor.save(folder / "kept")
    without_lora(editor).save(folder / "plain")


def _plain(tree):
    kept = {name: x for name, x in tree.items() if name not in ("lora_a", "lora_b")}
    return {name: _plain(x) if isinstance(x, dict) else x for name, x in kept.items()}


def unet_inputs():
    """Noisy latents beside those of the source, and a context."""
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape, np.float32) for shape in ((2, 16, 16, 8), (2, 5, 12))]


def predict(folder):
    """What the U-Net of a model directory makes of them, at times 3 and 700."""
    module, params = load_pretrained(folder / "unet")
    apply = jax.jit(lambda p, x, c: module.apply({"params": p}, x, jnp.array([3.0, 700.0]), c))
    return np.asarray(apply(params, *unet_inputs()))


def uneven(file, to):
    """A file of kohya with another rank and alpha for each layer."""
    tensors, rng = load_file(file), np.random.default_rng(0)
    for number, name in enumerate(sorted(name for name in tensors if name.endswith(".alpha"))):
        layer, rank = name.removesuffix(".alpha"), 1 + number % 4
        down, up = tensors[f"{layer}.lora_down.weight"], tensors[f"{layer}.lora_up.weight"]
        tensors[f"{layer}.lora_down.weight"] = rng.standard_normal((rank, *down.shape[1:]), np.float32) / 4
        tensors[f"{layer}.lora_up.weight"] = rng.standard_normal((len(up), rank, *up.shape[2:]), np.float32) / 4
        tensors[name] = np.asarray(0.5 * (1 + number), np.float32)
    save_file(tensors, to)
    return tensors
