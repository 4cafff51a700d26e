"""The vision-language model of the shapes world, with which its SmartEdit starts: LLaVA in small.

  python launch/train.py --config configs/llava.py:shapes --workdir runs/llava
  python launch/train.py --config configs/llava.py:debug --workdir runs/debug   # seconds

It learns to answer questions about pictures, and its Q-Former to give the states that the text encoder of the editor
`shapes` has for an instruction. Published editors start from LLaVA's weights, which launch/convert.py reads.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "shapes" or "debug"."""
    if variant not in ("shapes", "debug"):
        raise ValueError(
            f"unknown variant {variant!r} of llava.py: expected 'shapes' or 'debug'. For real images, the published "
            "LLaVA weights are used: see launch/convert.py."
        )
    config = shapes()
    if variant == "debug":
        debug(config)
    return config


def shapes() -> ConfigDict:
    """23 minutes on two busy cores: places and colors are seen by then, forms hardly."""
    config = ConfigDict()
    config.task = "shapes_language"
    config.seed = 0
    config.steps = 1500
    config.batch_size = 16  # pictures, each with a row of questions, over all devices
    config.accumulate = 1  # batches per optimizer step

    config.init = "shapes"  # the editor whose U-Net, VAE and text encoder are kept
    config.network = ConfigDict()
    config.network.update(unet={}, vae={}, text_encoder={}, tokenizer="", language_tokenizer="")
    config.network.vision_encoder = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 4,
    }
    config.network.language_model = {
        "model_type": "llava",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "mm_hidden_size": 96,
        "mm_vision_select_layer": -1,  # published models leave out the last of 24 layers
    }
    config.network.qformer = {
        "hidden_size": 96,  # with as many queries, the states of the text encoder
        "num_queries": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "cross_attention_frequency": 1,
        "encoder_hidden_size": 128,
    }
    config.network.interaction = {
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "context_size": 96,
        "residual_size": 32,
    }
    config.alignment_weight = 1.0

    config.data = ConfigDict()
    config.data.update(name="shapes", instructions=2, tokens=144)

    config.trainable = (
        (r"(vision_encoder|language_model|qformer)/.*", True),
        (r"(unet|vae|text_encoder|interaction)/.*", False),
    )

    config.optimizer = ConfigDict()
    config.optimizer.update(learning_rate=1.5e-3, schedule="cosine", warmup_steps=100)
    config.optimizer.update(b1=0.9, b2=0.99, eps=1e-8, weight_decay=1e-2, clip_norm=1.0)
    config.optimizer.update(ema_decay=0.995, mu_dtype="float32", eight_bit=False)

    config.compute = {"dtype": "float32", "remat": "none"}
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.log_every, config.checkpoint_every = 50, 500
    config.evaluate_every = 500
    config.keep_checkpoints = 2
    config.nonfinite = "stop"  # or "skip" such a step
    config.stall_seconds = None  # a step that hangs is reported after 20 median steps, a minute at least
    return config


def debug(config: ConfigDict) -> None:
    """The shapes variant in seconds, to check that everything runs; it learns nothing."""
    config.steps, config.batch_size = 4, 4
    # Most of the time is compilation, which grows with the number of layers.
    for name in ("vision_encoder", "language_model", "qformer", "interaction"):
        config.network[name].num_hidden_layers = 1
    config.optimizer.warmup_steps = 1
    config.log_every, config.checkpoint_every, config.evaluate_every = 1, 2, 0
