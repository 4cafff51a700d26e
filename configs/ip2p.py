"""Stage 1 of Multi-Reward as Condition (arXiv:2411.04713): InstructPix2Pix, which edits by instruction, without reward.

  python launch/train.py --config configs/ip2p.py --workdir runs/ip2p          # from Stable Diffusion 1.5
  python launch/train.py --config configs/ip2p.py:shapes --workdir runs/ip2p   # the embedded world, from scratch
  python launch/train.py --config configs/ip2p.py:debug --workdir runs/debug   # seconds

The full recipe reads the CLIP-filtered InstructPix2Pix data under data/instruct-pix2pix (docs/data.md). The shapes
variant, with the autoencoder of configs/autoencoder.py, made the editor `shapes` that ships with the package.
"""

from ml_collections import ConfigDict

PERSPECTIVES = ("following", "preserving", "quality")


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" (from Stable Diffusion 1.5), "shapes" or "debug"."""
    config = full()
    if variant in ("shapes", "debug"):
        shapes(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r} of ip2p.py: expected '', 'shapes' or 'debug'.")
    if variant == "debug":
        debug(config)
    return config


def full() -> ConfigDict:
    """The recipe of the published stage 1: that of configs/reward_ip2p.py without the reward.

    Multi-Reward as Condition starts from InstructPix2Pix (section 6.1); its authors published their own training of it
    (`Gstar666/Reward-InsPix2Pix`, folder stage1_instruct_pix2pix), with the settings below.
    """
    config = ConfigDict()
    config.task = "editing"
    config.base_editor = "instruct_pix2pix"  # one of rewardedit_jax.bases.BASES
    config.seed = 0
    config.steps = 10_000
    config.batch_size = 32  # edits, over all devices. The published code has 4 per GPU for an unknown number of GPUs
    config.accumulate = 4  # batches per optimizer step

    config.init = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config.network = {"unet": {}, "vae": {}, "text_encoder": {}, "tokenizer": ""}  # fields that differ from `init`
    config.schedule = {}  # fields of scheduler_config.json that differ from those of `init`

    config.reward = ConfigDict()
    config.reward.layout = ""  # no reward modules
    # The others are unused here; configs/reward_ip2p.py explains them.
    config.reward.sources = ("scores", "text")
    config.reward.paths = ("attention", "addition")
    config.reward.perspectives = PERSPECTIVES
    config.reward.dropout = 0.0

    config.data = ConfigDict()
    config.data.name = "instruct_pix2pix"
    config.data.root = "data/instruct-pix2pix"
    config.data.rewards = config.data.labels = ""  # reward files; none without reward
    config.data.resolution = 256  # pixels
    config.data.flip = True  # random horizontal flips of source and edited image together
    config.data.allow_outside = False  # whether paths in a triplet file may lead out of its folder
    config.data.cache = ""  # folder of launch/cache.py, trained on in place of images; "": no cache
    config.data.skip_bad = False  # False: an unreadable image stops the run; True: it is counted and replaced
    config.data.threads = 8

    config.conditioning_dropout = 0.05  # probability, each, of dropping the instruction, the source, and both
    # (regular expression of parameter paths, whether they train)
    config.trainable = ((r"unet/.*", True), (r"(vae|text_encoder)/.*", False))

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 5e-5
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.999, 1e-8
    config.optimizer.weight_decay = 1e-2
    config.optimizer.clip_norm = 1.0
    config.optimizer.ema_decay = 0.9999
    config.optimizer.mu_dtype = "float32"
    config.optimizer.eight_bit = False  # both moments in 8 bits

    # What the backward pass computes again, in place of keeping it: none, all_but_products or all.
    config.compute = {"dtype": "bfloat16", "remat": "all"}
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}  # devices per axis; -1: all that remain

    config.log_every = 10  # steps, as the next two
    config.checkpoint_every = 1000
    config.evaluate_every = 0  # 0: never
    config.keep_checkpoints = 2
    config.nonfinite = "stop"  # or "skip" such a step
    config.stall_seconds = None  # a step that hangs is reported after 20 median steps, a minute at least
    return config


def shapes(config: ConfigDict) -> None:
    """The shapes world from scratch: 32 px, about an hour and a half on two cores."""
    config.task = "shapes_editing"
    config.init = "shapes"  # the editor that ships with the package; provides the autoencoder
    config.network.unet = {
        "in_channels": 16,
        "out_channels": 8,
        "sample_size": 16,
        "block_out_channels": (32, 64, 88),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": 96,
        "norm_num_groups": 8,
    }
    config.network.text_encoder = {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
    }
    config.network.tokenizer = "shapes"
    config.schedule = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction",  # with noise prediction, a U-Net of this size stays at noise for hours
        # The last step is noise alone (arXiv:2305.08891). Otherwise the brightness of a picture shows through it in
        # training, and dark scenes turn grey when sampling starts from noise of mean zero.
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
    }
    config.trainable = ((r"(unet|text_encoder)/.*", True), (r"vae/.*", False))
    config.steps = 16_000
    config.words_weight = 0.1  # instructions use less than half of the words that feedback does
    config.batch_size, config.accumulate = 32, 1
    config.data.update(name="shapes", root="runs/shapes-data-stage1", train=60_000, test=512)
    config.data.update(resolution=32, flip=False, threads=2)
    config.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=200)
    config.optimizer.update(b2=0.99, weight_decay=1e-4, ema_decay=0.999)
    config.compute.update(dtype="float32", remat="none")
    config.log_every, config.checkpoint_every = 100, 2000


def debug(config: ConfigDict) -> None:
    """The shapes variant in seconds, to check that everything runs; it learns nothing."""
    config.steps, config.batch_size = 4, 4
    # Most of the time is compilation, which grows with the number of blocks.
    config.network.unet.update(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    config.data.update(root="runs/debug-data", train=64, test=16)
    config.optimizer.warmup_steps = 1
    config.log_every, config.checkpoint_every = 1, 2
