"""Diffusion as arithmetic on arrays: noise processes, samplers and guidance. No module here knows a network."""
