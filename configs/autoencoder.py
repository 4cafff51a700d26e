"""The autoencoder of the shapes world: pictures of 32 px ⇄ latents of 16 px.

  python launch/train.py --config configs/autoencoder.py:shapes --workdir runs/autoencoder

It made the VAE of the editor `shapes` that ships with the package. Published editors contain Stable Diffusion's VAE.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "shapes") -> ConfigDict:
    """`variant`: "shapes" or "debug"."""
    if variant not in ("shapes", "debug"):
        raise ValueError(f"unknown variant {variant!r} of autoencoder.py: expected 'shapes' or 'debug'.")
    config = shapes()
    if variant == "debug":
        config.steps, config.batch_size, config.optimizer.warmup_steps = 4, 4, 1
        config.data.update(root="runs/debug-data", train=64, test=16)
        config.log_every, config.checkpoint_every = 1, 2
    return config


def shapes() -> ConfigDict:
    """12 minutes on one core."""
    config = ConfigDict()
    config.task = "shapes_autoencoder"
    config.seed = 0
    config.steps = 7_000
    config.batch_size = 4  # pairs of pictures, over all devices
    config.accumulate = 1  # batches per optimizer step

    config.network = ConfigDict()
    config.network.vae = {  # fields of diffusers' AutoencoderKL
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "latent_channels": 8,
        "mid_block_add_attention": False,  # it costs a fifth of a step and gains nothing at this size
        "sample_size": 32,
    }
    config.kl_weight = 1e-6  # of the KL term, beside the squared error

    config.data = ConfigDict()
    config.data.update(name="shapes", root="runs/shapes-data", train=20_000, test=512)  # written on first use
    config.data.update(resolution=32, flip=True, skip_bad=False, threads=2)

    config.optimizer = ConfigDict()
    config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=50)
    config.optimizer.update(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip_norm=1.0)
    config.optimizer.update(ema_decay=0.999, mu_dtype="float32", eight_bit=False)

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.log_every = 100
    config.checkpoint_every = 2000
    config.evaluate_every = 0  # the task has no evaluator
    config.keep_checkpoints = 2
    config.nonfinite = "stop"  # or "skip" such a step
    config.stall_seconds = None  # a step that hangs is reported after 20 median steps, a minute at least
    return config
