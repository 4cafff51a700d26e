"""Stage 2: fine-tunes InstructPix2Pix on imperfect triplets, conditioned on their rewards.

Multi-Reward as Condition, arXiv:2411.04713.

  python launch/train.py --config configs/reward_ip2p.py --workdir runs/reward          # the paper's recipe
  python launch/train.py --config configs/reward_ip2p.py:lora --workdir runs/reward     # one small GPU: docs/lora.md
  python launch/train.py --config configs/reward_ip2p.py:shapes --workdir runs/reward   # the embedded world, a laptop
  python launch/train.py --config configs/reward_ip2p.py:debug --workdir runs/debug     # seconds

The paper's recipe starts from the published stage 1 and reads RewardEdit-20K (section 3) under data/RewardEdit
(docs/data.md).
"""

from ml_collections import ConfigDict

PERSPECTIVES = ("following", "preserving", "quality")


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" (the paper's recipe), "lora", "shapes" or "debug"."""
    config = paper()
    if variant in ("shapes", "debug"):
        shapes(config)
    elif variant == "lora":
        lora(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r} of reward_ip2p.py: expected '', 'lora', 'shapes' or 'debug'.")
    if variant == "debug":
        debug(config)
    return config


def paper() -> ConfigDict:
    """Multi-Reward as Condition, section 6.1.

    The section states initial weights, trained modules, optimizer, learning rate, weight decay, no warm-up, and 256 px.
    Everything else is from the published code. It flips images at random where the section has random crops.
    """
    config = ConfigDict()
    config.task = "editing"
    config.base_editor = "instruct_pix2pix"  # one of rewardedit_jax.bases.BASES
    config.seed = 0
    config.steps = 10_000
    config.batch_size = 32  # edits, over all devices. The published code has 4 per GPU for an unknown number of GPUs
    config.accumulate = 4  # batches per optimizer step

    config.init = "Gstar666/Reward-InsPix2Pix/stage1_instruct_pix2pix"
    config.network = {"unet": {}, "vae": {}, "text_encoder": {}, "tokenizer": ""}  # fields that differ from `init`
    config.schedule = {}  # fields of scheduler_config.json that differ from those of `init`

    config.reward = ConfigDict()
    # "released": the modules of the published weights; "paper": eq. 2 to 6; "": training without reward.
    config.reward.layout = "released"
    config.reward.sources = ("scores", "text")  # table 4 has both and each alone
    config.reward.paths = ("attention", "addition")  # table 5 has both and each alone
    config.reward.perspectives = PERSPECTIVES  # table 10 has each alone
    config.reward.dropout = 0.0  # probability of dropping the reward; reward guidance at inference needs more than 0

    config.data = ConfigDict()
    config.data.name = "reward_edit"
    config.data.root = "data/RewardEdit"
    config.data.rewards = "data/RewardEdit/RewardEdit_20K.json"
    config.data.labels = ""  # rewards that launch/label.py wrote, of data.name "prepared" or "triplets"
    config.data.resolution = 256  # pixels; table 11 compares with 512
    config.data.flip = True  # random horizontal flips of source and edited image together
    config.data.allow_outside = False  # whether paths in a triplet file may lead out of its folder
    config.data.cache = ""  # folder of launch/cache.py, trained on in place of images; "": no cache
    config.data.skip_bad = False  # False: an unreadable image stops the run; True: it is counted and replaced
    config.data.threads = 8

    config.conditioning_dropout = 0.05  # probability, each, of dropping the instruction, the source, and both
    # (regular expression of parameter paths, whether they train); the reward modules are part of the U-Net's tree.
    config.trainable = ((r"unet/.*", True), (r"(vae|text_encoder)/.*", False))

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 5e-5  # section 6.1, as the weight decay
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.999, 1e-8
    config.optimizer.weight_decay = 1e-2
    config.optimizer.clip_norm = 1.0  # configured in the published code, where it has no effect
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


def lora(config: ConfigDict) -> None:
    """Low-rank differences of the attention projections train, and the reward modules, which are new, as a whole.

    No paper has this recipe. Rank, targets and learning rate are those of diffusers' LoRA training of Stable Diffusion,
    but for its rank of 4. An optimizer step has a quarter of the paper's 128 edits.
    """
    config.batch_size, config.accumulate = 1, 32
    targets = (r"unet/.*/attn[12]/to_(q|k|v|out)",)
    config.lora = {"rank": 16, "alpha": 16.0, "targets": targets, "dropout": 0.0}
    config.trainable = ((r"unet/(.*/lora_[ab]|reward_.*)", True), (r".*", False))
    config.optimizer.learning_rate = 1e-4


def shapes(config: ConfigDict) -> None:
    """The shapes world: 32 px, an editor of 2.5 M parameters that ships with the package, minutes on a laptop."""
    config.task = "shapes_editing"
    config.init = "shapes"
    config.steps = 500
    config.batch_size, config.accumulate = 32, 1
    config.reward.dropout = 0.1  # so that reward guidance can be tried
    config.data.update(name="shapes", root="runs/shapes-data", train=20_000, test=512)
    config.data.update(resolution=32, flip=False, threads=2)
    # To zero at the end: at a constant rate the pictures get worse than those of the start editor.
    config.optimizer.update(learning_rate=7e-4, schedule="cosine", warmup_steps=50)
    config.optimizer.update(b2=0.99, weight_decay=1e-4, ema_decay=0.999)
    config.compute.update(dtype="float32", remat="none")
    config.log_every, config.checkpoint_every = 25, 250


def debug(config: ConfigDict) -> None:
    """The shapes variant in seconds, to check that everything runs; it learns nothing."""
    config.steps, config.batch_size = 4, 4
    config.data.update(root="runs/debug-data", train=64, test=16)
    config.optimizer.warmup_steps = 1
    config.log_every, config.checkpoint_every = 1, 2
