"""The trainings that a comparison sets side by side: one recipe, and what each arm changes in it."""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from absl import flags
from ml_collections import ConfigDict, config_flags

BASELINE = "without reward"
FULL = "reward"
_PREFIX = "--config."

# Arm → overrides. A recipe of its own reads scores and feedback, and acts by attention and addition.
ARMS = MappingProxyType(
    {
        BASELINE: (f"{_PREFIX}reward.layout=",),
        "scores": (f"{_PREFIX}reward.sources=('scores',)",),
        "feedback": (f"{_PREFIX}reward.sources=('text',)",),
        "attention": (f"{_PREFIX}reward.paths=('attention',)",),
        "addition": (f"{_PREFIX}reward.paths=('addition',)",),
        FULL: (),
    }
)


def recipe(config: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """What `launch/train.py --config=CONFIG OVERRIDES` would train.

    Args:
      config: path of the recipe, with its variant: "configs/reward_ip2p.py:shapes".
      overrides: "--config.field=value" each.
    Raises:
      FileNotFoundError: if there is no such recipe.
      ValueError: naming the override that does not fit the recipe.
    """
    file = config.partition(":")[0]
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no recipe {file}")
    strangers = [word for word in overrides if not word.startswith(_PREFIX) or "=" not in word]
    if strangers:
        raise ValueError(f"not of the form {_PREFIX}field=value: {' '.join(strangers)}")
    values = flags.FlagValues()
    words = ["recipe", f"--config={config}", *overrides]
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=words)
    try:
        values(words)
    except (flags.Error, AttributeError, TypeError) as error:  # AttributeError: a field that the recipe does not have
        raise ValueError(f"{config}: {error}") from error
    return values.config
