"""The autoencoder of the shapes world: 32 px pictures ⇄ latents of half their side.

  python launch/train.py --config configs/autoencoder.py:shapes --workdir runs/autoencoder

Published editors bring Stable Diffusion's VAE along; only worlds without one need this.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "shapes") -> ConfigDict:
    """`variant`: "shapes" or "debug"."""
    if variant not in ("shapes", "debug"):
        raise ValueError(f"unknown variant {variant!r} of autoencoder.py; there are shapes and debug.")
    config = shapes()
    if variant == "debug":
        config.steps, config.batch_size, config.optimizer.warmup_steps = 4, 4, 1
        config.data.update(root="runs/debug-data", train=64, test=16)
        config.log_every, config.checkpoint_every = 1, 2
    return config


def shapes() -> ConfigDict:
    config = ConfigDict()
    config.task = "shapes_autoencoder"
    config.seed = 0
    config.steps = 7_000
    config.batch_size = 4  # pairs: each gives two pictures
    config.accumulate = 1

    config.network = ConfigDict()
    config.network.vae = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "latent_channels": 8,
        "mid_block_add_attention": False,  # a fifth of the cost, and not needed here
        "sample_size": 32,
    }
    config.kl_weight = 1e-6

    config.data = ConfigDict()
    config.data.update(name="shapes", root="runs/shapes-data", train=20_000, test=512)
    config.data.update(resolution=32, flip=True, skip_bad=False, threads=2)

    config.optimizer = ConfigDict()
    config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=50)
    config.optimizer.update(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip_norm=1.0)
    config.optimizer.update(ema_decay=0.999, mu_dtype="float32")

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.log_every = 100
    config.checkpoint_every = 2000
    config.evaluate_every = 0
    config.keep_checkpoints = 2
    return config
