"""SmartEdit: an instruction-based editor whose instructions are read by a language model that sees the source.

Huang et al., "SmartEdit", CVPR 2024, arXiv:2312.06739, the second stage of training with its joint objective: the
cross-entropy of the replies and the error of the predicted noise.

  python launch/train.py --config configs/smartedit.py --workdir runs/smartedit          # from published weights
  python launch/train.py --config configs/smartedit.py:shapes --workdir runs/smartedit   # the embedded world
  python launch/train.py --config configs/smartedit.py:debug --workdir runs/debug        # seconds

Without argument it starts from a converted SmartEdit (docs/smartedit.md): the weights of its first stage were never
published. The shapes variant starts from a training of configs/llava.py:shapes in runs/llava, which holds the U-Net of
the editor `shapes`.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

# Recipes are files, not modules of a package: a neighbour is run, not imported.
_IP2P = runpy.run_path(str(Path(__file__).with_name("ip2p.py")))


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" (the published recipe), "shapes" or "debug"."""
    config = published()
    if variant in ("shapes", "debug"):
        shapes(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r} of smartedit.py: expected '', 'shapes' or 'debug'.")
    if variant == "debug":
        debug(config)
    return config


def published() -> ConfigDict:
    """The second stage of the published code, on InstructPix2Pix's data alone.

    The published mixture adds MagicBrush, segmentation data and LLaVA's conversations. Its learning rate is constant:
    a schedule in the settings of DeepSpeed wins over the cosine that its scripts ask for.
    """
    config = _IP2P["full"]()
    config.base_editor = "smartedit"
    config.steps = 15_000
    config.batch_size, config.accumulate = 16, 8  # 128 edits per step, as published on 8 GPUs
    config.init = "models/smartedit-7b"  # of launch/convert.py
    networks = ("unet", "vae", "text_encoder", "vision_encoder", "language_model", "qformer", "interaction")
    config.network = {**{name: {} for name in networks}, "tokenizer": "", "language_tokenizer": ""}
    config.reply_weight = 1.0
    config.lora = {
        "rank": 8,
        "alpha": 16.0,
        "dropout": 0.05,
        "targets": (r"language_model/decoder/layers_\d+/self_attn/[qv]_proj",),
    }
    config.data.flip = False  # would exchange left and right
    config.trainable = (
        (r"unet/.*|qformer/.*", True),
        (r"interaction/positional_encoding_gaussian_matrix", False),  # a constant
        (r"interaction/.*", True),
        # With LoRA, only the rows of the tokens that SmartEdit has added change.
        (r"language_model/(.*/lora_[ab]|decoder/embed_tokens/embedding|lm_head/kernel)", True),
        (r".*", False),
    )
    # Without weight decay, which would move the words of the language model too.
    config.optimizer.update(learning_rate=1e-5, weight_decay=0.0, ema_decay=None)
    config.mesh = {"data": 1, "fsdp": -1, "tensor": 1}  # 16 bytes of state for each trained parameter
    return config


def shapes(config: ConfigDict) -> None:
    """The shapes world: 32 px. The language model is small enough to train as a whole."""
    config.task = "shapes_editing"
    config.init = "runs/llava"
    config.steps = 1000
    config.batch_size, config.accumulate = 32, 1
    config.lora = None
    config.data.update(name="shapes", root="runs/shapes-data-stage1", train=60_000, test=512)
    config.data.update(resolution=32, threads=2)
    config.trainable = (
        (r"(vae|text_encoder)/.*|interaction/positional_encoding_gaussian_matrix", False),
        (r".*", True),
    )
    config.optimizer.update(learning_rate=7e-4, schedule="cosine", warmup_steps=50)
    config.optimizer.update(b2=0.99, weight_decay=1e-4, ema_decay=0.999)
    config.compute.update(dtype="float32", remat="none")
    config.mesh.update(data=-1, fsdp=1)
    config.log_every, config.checkpoint_every = 25, 250


def debug(config: ConfigDict) -> None:
    """The shapes variant in seconds, to check that everything runs; it learns nothing."""
    config.init = "shapes"  # and what reads its requests from scratch
    config.network.update(small_networks())
    config.steps, config.batch_size = 4, 4
    config.data.update(root="runs/debug-data", train=64, test=16)
    config.optimizer.warmup_steps = 1
    config.log_every, config.checkpoint_every = 1, 2


def small_networks() -> ConfigDict:
    """The networks of configs/llava.py:debug."""
    return runpy.run_path(str(Path(__file__).with_name("llava.py")))["get_config"]("debug").network
