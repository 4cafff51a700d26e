"""Reward-conditioned instruction-based image editing in JAX and Flax."""

from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.reward import Reward
from rewardedit_jax.scoring.edit_score import EditScore
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.weights.pretrained import load_pretrained

__version__ = "0.1.0"

__all__ = ["EditScore", "Editor", "Reward", "Scorer", "load_pretrained"]
