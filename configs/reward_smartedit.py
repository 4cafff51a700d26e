"""Reward-SmartEdit: SmartEdit fine-tuned on imperfect triplets, conditioned on their rewards.

Multi-Reward as Condition, arXiv:2411.04713, section 6.1.

  python launch/convert.py smartedit --smartedit DIR --llava DIR --out models/smartedit-7b        # docs/smartedit.md
  python launch/cache.py --config configs/reward_smartedit.py --out data/cache
  python launch/train.py --config configs/reward_smartedit.py --config.data.cache=data/cache --workdir runs/reward
  python launch/train.py --config configs/reward_smartedit.py:shapes --workdir runs/reward   # the embedded world
  python launch/train.py --config configs/reward_smartedit.py:debug --workdir runs/debug     # seconds

The language model and all that reads its states are frozen, so that with the cache training never runs them. The
shapes variant starts from `shapes_smartedit`, which ships with the package.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

# Recipes are files, not modules of a package: a neighbour is run, not imported.
_REWARD_IP2P = runpy.run_path(str(Path(__file__).with_name("reward_ip2p.py")))
_SMARTEDIT = runpy.run_path(str(Path(__file__).with_name("smartedit.py")))


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" (the paper's recipe), "shapes" or "debug"."""
    config = paper()
    if variant in ("shapes", "debug"):
        shapes(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r} of reward_smartedit.py: expected '', 'shapes' or 'debug'.")
    if variant == "debug":
        debug(config)
    return config


def paper() -> ConfigDict:
    """The recipe of Reward-InsPix2Pix (configs/reward_ip2p.py) on SmartEdit, as section 6.1 has one for both editors.

    The paper leaves open which SmartEdit it is, whether images are flipped, and which of the 30 templates of SmartEdit
    is read: here 7B, never, and one. A flip would exchange left and right in what the language model sees.
    """
    config = _REWARD_IP2P["paper"]()
    config.base_editor = "smartedit"
    config.init = "models/smartedit-7b"  # of launch/convert.py
    networks = ("unet", "vae", "text_encoder", "vision_encoder", "language_model", "qformer", "interaction")
    config.network = {**{name: {} for name in networks}, "tokenizer": "", "language_tokenizer": ""}
    config.data.flip = False
    config.trainable = ((r"unet/.*", True), (r".*", False))
    return config


def shapes(config: ConfigDict) -> None:
    """That of Reward-InsPix2Pix in the shapes world, on its SmartEdit."""
    _REWARD_IP2P["shapes"](config)
    config.init = "shapes_smartedit"  # ships with the package


def debug(config: ConfigDict) -> None:
    """The shapes variant in seconds, to check that everything runs; it learns nothing."""
    config.init = "shapes"  # and what reads its requests from scratch
    config.network.update(_SMARTEDIT["small_networks"]())
    _REWARD_IP2P["debug"](config)
