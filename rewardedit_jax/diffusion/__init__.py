"""Diffusion as arithmetic on arrays: the noise schedule, the samplers, guidance. Knows no network."""
