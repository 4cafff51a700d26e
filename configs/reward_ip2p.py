"""Stage 2: fine-tune InstructPix2Pix on imperfect triplets with their rewards as conditions.

  python launch/train.py --config configs/reward_ip2p.py --workdir runs/reward          # the paper's recipe
  python launch/train.py --config configs/reward_ip2p.py:shapes --workdir runs/reward   # the embedded world, a laptop
  python launch/train.py --config configs/reward_ip2p.py:debug --workdir runs/debug     # seconds

The paper's recipe starts from the published stage 1 and reads RewardEdit-20K under data/RewardEdit (docs/data.md).
"""

from ml_collections import ConfigDict

PERSPECTIVES = ("following", "preserving", "quality")


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" (the paper's recipe), "shapes" or "debug"."""
    config = paper()
    if variant in ("shapes", "debug"):
        shapes(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r} of reward_ip2p.py; there are shapes and debug.")
    if variant == "debug":
        debug(config)
    return config


def paper() -> ConfigDict:
    """Multi-Reward as Condition, section 6.1, and what its published code adds to it."""
    config = ConfigDict()
    config.task = "editing"
    config.base_editor = "instruct_pix2pix"  # one of rewardedit_jax.bases.BASES
    config.seed = 0
    config.steps = 10_000
    config.batch_size = 32  # over all devices; published: 4 per GPU, their number not said
    config.accumulate = 4  # batches per optimizer step

    config.init = "Gstar666/Reward-InsPix2Pix/stage1_instruct_pix2pix"
    config.network = {"unet": {}, "vae": {}, "text_encoder": {}, "tokenizer": ""}  # empty: as in `init`
    config.schedule = {}  # fields of scheduler_config.json that differ from those of `init`

    config.reward = ConfigDict()
    config.reward.layout = "released"  # "released", "paper" or "" for training without reward
    config.reward.sources = ("scores", "text")
    config.reward.paths = ("attention", "addition")
    config.reward.perspectives = PERSPECTIVES
    config.reward.dropout = 0.0  # above 0, reward guidance against no reward becomes meaningful

    config.data = ConfigDict()
    config.data.name = "reward_edit"
    config.data.root = "data/RewardEdit"
    config.data.rewards = "data/RewardEdit/RewardEdit_20K.json"
    config.data.resolution = 256
    config.data.flip = True
    config.data.skip_bad = False
    config.data.threads = 8

    config.conditioning_dropout = 0.05
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

    config.compute = {"dtype": "bfloat16", "remat": True}
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}  # -1: all remaining devices

    config.log_every = 10
    config.checkpoint_every = 1000
    config.evaluate_every = 0
    config.keep_checkpoints = 2
    return config


def shapes(config: ConfigDict) -> None:
    """The embedded world: 32 px, a 2.5 M-parameter editor that this project pretrained, minutes on a laptop."""
    config.task = "shapes_editing"
    config.init = "shapes"
    config.steps = 500
    config.batch_size, config.accumulate = 32, 1
    config.reward.dropout = 0.1
    config.data.update(name="shapes", root="runs/shapes-data", train=20_000, test=512)
    config.data.update(resolution=32, flip=False, threads=2)
    config.optimizer.update(learning_rate=7e-4, warmup_steps=50, b2=0.99, weight_decay=1e-4, ema_decay=0.999)
    config.compute.update(dtype="float32", remat=False)
    config.log_every, config.checkpoint_every = 25, 250


def debug(config: ConfigDict) -> None:
    """Everything runs, nothing is learnt."""
    config.steps, config.batch_size = 4, 4
    config.data.update(root="runs/debug-data", train=64, test=16)
    config.log_every, config.checkpoint_every = 1, 2
