"""Reward-conditioned instruction-based image editing in JAX and Flax."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardedit_jax.editing.editor import Editor
    from rewardedit_jax.reward import Reward
    from rewardedit_jax.scoring.edit_score import EditScore
    from rewardedit_jax.scoring.scorer import Scorer
    from rewardedit_jax.weights.pretrained import load_pretrained

__version__ = "0.1.0"

__all__ = ["EditScore", "Editor", "Reward", "Scorer", "load_pretrained"]

_MODULES = {
    "EditScore": "scoring.edit_score",
    "Editor": "editing.editor",
    "Reward": "reward",
    "Scorer": "scoring.scorer",
    "load_pretrained": "weights.pretrained",
}


def __getattr__(name: str) -> Any:
    # At first use: Flax and transformers take seconds to import, and the commands that prepare data need neither.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
