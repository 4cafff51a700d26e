"""Reward-SmartEdit: SmartEdit fine-tuned on imperfect triplets, conditioned on their rewards.

Multi-Reward as Condition, arXiv:2411.04713, section 6.1.

  python launch/convert.py smartedit --smartedit DIR --llava DIR --out models/SmartEdit-7B        # docs/smartedit.md
  python launch/cache.py --config configs/reward_smartedit.py --out data/cache
  python launch/train.py --config configs/reward_smartedit.py --config.data.cache=data/cache --workdir runs/smartedit

The language model and all that reads its states are frozen, so that with the cache training never runs them.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

# Recipes are files, not modules of a package: a neighbour is run, not imported.
_REWARD_IP2P = runpy.run_path(str(Path(__file__).with_name("reward_ip2p.py")))


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" (the paper's recipe)."""
    if variant:
        raise ValueError(f"unknown variant {variant!r} of reward_smartedit.py: expected ''.")
    return paper()


def paper() -> ConfigDict:
    """The recipe of Reward-InsPix2Pix (configs/reward_ip2p.py) on SmartEdit, as section 6.1 has one for both editors.

    The paper leaves open which SmartEdit it is, whether images are flipped, and which of the 30 templates of SmartEdit
    is read: here 7B, never, and one. A flip would exchange left and right in what the language model sees.
    """
    config = _REWARD_IP2P["paper"]()
    config.base_editor = "smartedit"
    config.init = "models/SmartEdit-7B"  # of launch/convert.py
    networks = ("unet", "vae", "text_encoder", "vision_encoder", "language_model", "qformer", "interaction")
    config.network = {**{name: {} for name in networks}, "tokenizer": "", "language_tokenizer": ""}
    config.data.flip = False
    config.trainable = ((r"unet/.*", True), (r".*", False))
    return config
