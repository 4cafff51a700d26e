"""The scorer EditReward (arXiv:2509.26346): a vision-language model that learns from human preferences to score edits.

  python launch/train.py --config configs/edit_reward.py --workdir runs/scorer          # the paper's recipe
  python launch/train.py --config configs/edit_reward.py:lora --workdir runs/scorer     # one GPU: docs/lora.md
  python launch/train.py --config configs/edit_reward.py:shapes --workdir runs/scorer   # the shapes world, a laptop
  python launch/train.py --config configs/edit_reward.py:debug --workdir runs/debug     # seconds

The paper's recipe starts from Qwen2.5-VL-7B and reads EditReward-Data under data/EditReward-Data (docs/data.md).
"""

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" (the paper's recipe), "lora", "shapes" or "debug"."""
    config = paper()
    if variant in ("shapes", "debug"):
        shapes(config)
    elif variant == "lora":
        lora(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r} of edit_reward.py: expected '', 'lora', 'shapes' or 'debug'.")
    if variant == "debug":
        debug(config)
    return config


def paper() -> ConfigDict:
    """EditReward, section 4.1 and A.4.

    What the paper leaves open is from the published code, TIGER-AI-Lab/EditReward. Where the two differ (the code has a
    constant learning rate, 10 epochs and batches of 64), the paper is followed.
    """
    config = ConfigDict()
    config.task = "scoring"
    config.seed = 0
    config.steps = 25_000  # two epochs of 200,000 pairs
    config.batch_size = 16  # pairs, over all devices: 2 on each of 8 GPUs
    config.accumulate = 1  # batches per optimizer step

    config.init = "Qwen/Qwen2.5-VL-7B-Instruct"  # a base model or a scorer; "": from scratch, of the sizes in `network`
    config.base = ""  # model with the tokenizer, if `init` has none
    config.network = {"text": {}, "vision": {}}  # fields of Qwen2.5-VL's config.json, for `init=""`
    config.positions = "plain"  # of the published weights; "mrope": those of the base model's training
    # Section 3.2 and table 4: one head for each dimension, and the mean of eq. 3. The widths are the code's.
    config.heads = {"kind": "separate", "hidden_sizes": (1024, 16), "aggregation": "mean"}
    # The code's loss, E[-log sigmoid]. Eq. 4, -log P, is "negative_log_probability".
    config.objective = {"name": "uncertainty", "settings": settings()}

    config.data = ConfigDict()
    config.data.name = "edit_reward"
    config.data.root = "data/EditReward-Data"
    config.data.images = ""  # folder that the paths of a preference file are relative to; empty: that of the file
    config.data.pairs = 0  # train on the first of the data alone; 0: all. Table 7 compares 130,000 and 200,000
    # "disentangle": eq. 6; "both orders": all ties, in both orders; "strict only": no ties; "marked": all ties, once,
    # for the objectives btt and per_perspective.
    config.data.ties = "disentangle"
    config.data.area = 448 * 448  # pixels of an image; its aspect ratio is kept
    # Rows of text and images are padded to these sizes, larger ones to the next multiple, so that few programs compile.
    config.data.row_tokens = 1536
    config.data.image_patches = 1152
    config.data.allow_outside = False  # whether paths in a preference file may lead out of its folder
    config.data.skip_bad = False  # False: an unreadable image stops the run; True: it is counted and replaced
    config.data.threads = 8

    # (regular expression of parameter paths, whether they train). Of the token embeddings only the row of the reward
    # token trains, which is a parameter of its own.
    config.trainable = ((r"scorer/decoder/embed_tokens/.*", False), (r".*", True))

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2e-6
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 1250  # 0.05 of the steps
    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.999, 1e-8
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0  # a default in the code, which DeepSpeed may ignore
    config.optimizer.ema_decay = None
    config.optimizer.mu_dtype = "float32"
    config.optimizer.eight_bit = False  # both moments in 8 bits

    # What the backward pass computes again, in place of keeping it: none, all_but_products or all.
    config.compute = {"dtype": "bfloat16", "remat": "all"}
    # Devices per axis; -1: all. 7 B parameters with their moments need several.
    config.mesh = {"data": 1, "fsdp": -1, "tensor": 1}

    config.log_every = 10  # steps, as the next two
    config.checkpoint_every = 1000
    config.evaluate_every = 0  # 0: never
    config.keep_checkpoints = 2
    config.nonfinite = "stop"  # or "skip" such a step
    config.stall_seconds = None  # a step that hangs is reported after 20 median steps, a minute at least
    return config


def settings() -> dict[str, FieldReference]:
    """Settings of all objectives; an unset one has the objective's own default."""
    return {
        # Of uncertainty, uncertainty_with_margin, uncertainty_monte_carlo and constant_margin.
        "margin": placeholder(float),
        "draws": placeholder(int),  # of uncertainty_monte_carlo
        "tau": placeholder(float),  # of likelihood_displacement, which has no default for it
        "k": placeholder(float),  # of btt and per_perspective
        "ties": placeholder(str),  # of per_perspective: btt or masked
    }


def lora(config: ConfigDict) -> None:
    """Low-rank differences of the decoder's attention train, and what is new: reward token and heads.

    No paper has this recipe: rank and learning rate are usual ones of LoRA, and were not tuned here.
    """
    config.batch_size, config.accumulate = 1, 16
    targets = (r"scorer/decoder/layers_\d+/self_attn/[qkvo]_proj",)
    config.lora = {"rank": 16, "alpha": 16.0, "targets": targets, "dropout": 0.0}
    config.trainable = ((r"scorer/(.*/lora_[ab]|heads/.*)|reward_token/.*", True), (r".*", False))
    config.optimizer.learning_rate = 1e-4
    config.mesh.update(data=-1, fsdp=1)


def shapes(config: ConfigDict) -> None:
    """The shapes world: a scorer of 1 M parameters from scratch, by regression of ratings; 40 minutes on two cores.

    A ranking starts from it, with --config.init=runs/scorer and another objective and other ties: see `make scorers`.
    """
    config.task = "shapes_scoring"
    config.init, config.base = "", "shapes_scorer"  # the tokenizer that ships with the package
    config.objective.name = "reg_per_perspective"
    config.network.text = {
        "model_type": "qwen2_5_vl_text",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 10_000.0,
        "rope_scaling": {"mrope_section": (6, 5, 5)},
    }
    config.network.vision = {
        "depth": 3,
        "hidden_size": 96,
        "num_heads": 4,
        "intermediate_size": 192,
        "out_hidden_size": 128,
        "fullatt_block_indexes": (0, 1, 2),
    }
    config.heads.hidden_sizes = (128, 16)
    config.trainable = ((r".*", True),)
    config.steps, config.batch_size = 20_000, 32
    config.data.update(name="shapes", root="runs/shapes-data", ties="marked", train=60_000, test=256)
    config.data.update(area=56 * 56, row_tokens=8, image_patches=16, threads=2)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200, b2=0.99, weight_decay=1e-2)
    config.compute.update(dtype="float32", remat="none")
    config.mesh.update(data=-1, fsdp=1)
    config.log_every, config.checkpoint_every = 25, 500


def debug(config: ConfigDict) -> None:
    """The shapes variant in seconds, to check that everything runs; it learns nothing."""
    config.steps, config.batch_size = 4, 4
    # Most of the time is compilation, which grows with the number of layers.
    config.network.text.num_hidden_layers = 1
    config.network.vision.update(depth=1, fullatt_block_indexes=(0,))
    config.data.update(root="runs/debug-data", train=16, test=8)
    config.optimizer.warmup_steps = 1
    config.log_every, config.checkpoint_every = 1, 2
