"""The scorer: a vision-language model that learns from judged pairs which edit is better.

  python launch/train.py --config configs/edit_reward.py --workdir runs/scorer          # the paper's recipe
  python launch/train.py --config configs/edit_reward.py:shapes --workdir runs/scorer   # the embedded world, a laptop
  python launch/train.py --config configs/edit_reward.py:debug --workdir runs/debug     # seconds

The paper's recipe starts from Qwen2.5-VL-7B and reads EditReward-Data under data/EditReward-Data (docs/data.md).
"""

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" (the paper's recipe), "shapes" or "debug"."""
    config = paper()
    if variant in ("shapes", "debug"):
        shapes(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r} of edit_reward.py; there are shapes and debug.")
    if variant == "debug":
        debug(config)
    return config


def paper() -> ConfigDict:
    """EditReward, section 4.1. Where its code differs (constant rate, 10 epochs), the paper is followed."""
    config = ConfigDict()
    config.task = "scoring"
    config.seed = 0
    config.steps = 25_000  # two epochs of 200,000 rows, ties disentangled
    config.batch_size = 16  # pairs, over all devices
    config.accumulate = 1  # batches per optimizer step

    config.init = "Qwen/Qwen2.5-VL-7B-Instruct"  # a base model or a scorer; "": from scratch, as `network` says
    config.base = ""  # where the tokenizer is, if `init` has none
    config.network = {"text": {}, "vision": {}}
    config.positions = "plain"  # as published weights; "mrope" is what the base model was trained with
    config.heads = {"kind": "separate", "hidden_sizes": (1024, 16), "aggregation": "mean"}
    config.objective = {"name": "uncertainty", "settings": settings()}

    config.data = ConfigDict()
    config.data.name = "edit_reward"
    config.data.root = "data/EditReward-Data"
    config.data.images = ""  # what paths of a preference file are relative to; empty: its folder
    config.data.ties = "disentangle"  # "both orders": full ties too; "strict only"; "marked": for btt, per_perspective
    config.data.area = 448 * 448  # pixels
    config.data.row_tokens = 1536  # rows and images are padded to these, larger ones to the next multiple
    config.data.image_patches = 1152
    config.data.skip_bad = False
    config.data.threads = 8

    # The embedding matrix stays as it is; the reward token's row, which trains, lies beside it.
    config.trainable = ((r"scorer/decoder/embed_tokens/.*", False), (r".*", True))

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2e-6
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 1250
    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.999, 1e-8
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0
    config.optimizer.ema_decay = None
    config.optimizer.mu_dtype = "float32"

    config.compute = {"dtype": "bfloat16", "remat": True}
    config.mesh = {"data": 1, "fsdp": -1, "tensor": 1}  # 7B with its moments fits on no single device

    config.log_every = 10
    config.checkpoint_every = 1000
    config.evaluate_every = 0
    config.keep_checkpoints = 2
    return config


def settings() -> dict[str, FieldReference]:
    """Of all objectives; what is not set is the objective's own default."""
    return {
        "margin": placeholder(float),  # uncertainty, uncertainty_with_margin, uncertainty_monte_carlo, constant_margin
        "draws": placeholder(int),  # uncertainty_monte_carlo
        "tau": placeholder(float),  # likelihood_displacement, which has no default
        "k": placeholder(float),  # btt, per_perspective
        "ties": placeholder(str),  # per_perspective: btt, masked
    }


def shapes(config: ConfigDict) -> None:
    """The embedded world: a scorer of 1 M parameters from scratch, from the ratings of edits; 40 minutes on two cores.

    A ranking goes on from it, with --config.init=runs/scorer and an objective and ties of its own: see `make scorers`.
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
    config.compute.update(dtype="float32", remat=False)
    config.mesh.update(data=-1, fsdp=1)
    config.log_every, config.checkpoint_every = 25, 500


def debug(config: ConfigDict) -> None:
    """Everything runs, nothing is learnt."""
    config.steps, config.batch_size = 4, 4
    config.data.update(root="runs/debug-data", train=16, test=8)
    config.log_every, config.checkpoint_every = 1, 2
