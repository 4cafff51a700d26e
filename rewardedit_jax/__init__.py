"""Reward-conditioned instruction-based image editing in JAX and Flax."""

__version__ = "0.1.0"
