"""Recipes: each variant builds, the two stages differ in the reward and its data, the papers' values."""

import pytest
from ml_collections import FrozenConfigDict
from tiny_models import ROOT, get_config

from rewardedit_jax.editing.task import SOURCES
from rewardedit_jax.scoring.task import PREFERENCES

ALL = ("", "shapes", "debug")
VARIANTS = {"autoencoder": ("shapes", "debug"), "ip2p": ALL, "reward_ip2p": ALL, "edit_reward": ALL}
EVERY = [(recipe, variant) for recipe, variants in VARIANTS.items() for variant in variants]


def leaves(tree, prefix=""):
    """Dotted path → value."""
    if not hasattr(tree, "items"):
        return {prefix: tree}
    flat = {}
    for name, value in tree.items():
        flat |= leaves(value, f"{prefix}.{name}" if prefix else name)
    return flat or {prefix: {}}


def differences(a, b):
    a, b = leaves(a), leaves(b)
    return {path for path in a.keys() | b.keys() if a.get(path, "absent") != b.get(path, "absent")}


def test_every_recipe_is_tested():
    assert {file.stem for file in (ROOT / "configs").glob("*.py")} == VARIANTS.keys()


@pytest.mark.parametrize(("recipe", "variant"), EVERY)
def test_a_recipe_builds_and_can_be_locked(recipe, variant):
    config = get_config(recipe, variant).lock()
    with pytest.raises(AttributeError):
        config.optimizer.learning_rat = 1.0
    with pytest.raises(TypeError):
        config.steps = "many"
    config.steps = 7  # as --config.steps=7
    FrozenConfigDict(config)
    if variant in ("shapes", "debug"):
        assert config.task.startswith("shapes_")
        assert config.data.name == "shapes"
    else:
        assert config.task in ("editing", "scoring")
        assert config.data.name in (PREFERENCES if config.task == "scoring" else SOURCES)


@pytest.mark.parametrize(("recipe", "variant"), EVERY)
def test_variants_share_their_fields(recipe, variant):
    """A variant changes values and adds none but the sizes of the shapes world."""
    free = ("network.", "schedule", "data.train", "data.test")
    ours, full = (
        {path for path in leaves(get_config(recipe, v)) if not path.startswith(free)}
        for v in (variant, VARIANTS[recipe][0])
    )
    assert ours == full


@pytest.mark.parametrize("recipe", VARIANTS)
def test_an_unknown_variant_is_refused(recipe):
    with pytest.raises(ValueError, match=rf"'shape' of {recipe}\.py.*'shapes' or 'debug'"):
        get_config(recipe, "shape")


def test_the_two_stages_differ_in_the_reward_and_its_data_alone():
    assert differences(get_config("ip2p"), get_config("reward_ip2p")) == {
        "init",
        "reward.layout",
        "data.name",
        "data.root",
        "data.rewards",
    }


def test_the_two_stages_of_the_shapes_world():
    """Stage 1 learns everything from scratch for longer; stage 2 fine-tunes the U-Net with reward dropout."""
    stage1, stage2 = get_config("ip2p", "shapes"), get_config("reward_ip2p", "shapes")
    assert {path for path in differences(stage1, stage2) if not path.startswith(("network.", "schedule"))} >= {
        "reward.layout",
        "reward.dropout",
        "trainable",
        "steps",
    }
    assert not differences(stage1.reward, stage2.reward) - {"layout", "dropout"}
    for same in ("data.resolution", "data.name", "compute", "mesh", "conditioning_dropout", "batch_size", "accumulate"):
        first, second = stage1, stage2
        for name in same.split("."):
            first, second = first[name], second[name]
        assert first == second, same


def test_the_papers_recipe():
    config = get_config("reward_ip2p")
    assert leaves(config.optimizer) == {
        "learning_rate": 5e-5,
        "schedule": "constant",
        "warmup_steps": 0,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 1e-2,
        "clip_norm": 1.0,
        "ema_decay": 0.9999,
        "mu_dtype": "float32",
    }
    assert (config.steps, config.accumulate, config.compute.remat) == (10_000, 4, True)
    assert (config.data.resolution, config.data.flip) == (256, True)
    assert config.reward.layout == "released"
    assert config.reward.perspectives == ("following", "preserving", "quality")
    assert config.init.endswith("stage1_instruct_pix2pix")
    assert config.trainable == ((r"unet/.*", True), (r"(vae|text_encoder)/.*", False))


def test_the_papers_recipe_of_the_scorer():
    """EditReward, arXiv:2509.26346; what the paper leaves open is from its published code."""
    config = get_config("edit_reward")
    assert leaves(config.optimizer) == {
        "learning_rate": 2e-6,  # section 4.1, for every part
        "schedule": "cosine",  # section 4.1; the code has a constant rate
        "warmup_steps": 1250,  # section 4.1: 0.05 of the steps
        "b1": 0.9,  # betas, eps and weight decay are the code's
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "clip_norm": 1.0,  # a default in the code, which DeepSpeed may ignore
        "ema_decay": None,
        "mu_dtype": "float32",
    }
    assert config.init == "Qwen/Qwen2.5-VL-7B-Instruct"  # section 4.1
    assert config.batch_size * config.accumulate == 16  # section 4.1: two pairs on each of eight devices
    assert config.steps == 2 * 200_000 / 16  # section 4.1: two epochs of 200 K pairs
    assert config.optimizer.warmup_steps == 0.05 * config.steps
    # Section 3.2 and table 4: a head for each dimension, their mean (eq. 3). The widths are the code's.
    assert config.heads.to_dict() == {"kind": "separate", "hidden_sizes": (1024, 16), "aggregation": "mean"}
    assert config.objective.name == "uncertainty"  # section 3.2; the code's E[-log sigmoid], not eq. 4
    assert not any(config.objective.settings.values())
    assert config.positions == "plain"  # the code's
    assert config.data.area == 448 * 448  # section 4.1, "preserving their original aspect ratios"
    assert config.data.ties == "disentangle"  # section 3.3, eq. 6
    # Section 4.1, "all parameters of the backbone"; of the token embeddings the code trains the reward token's row.
    assert config.trainable == ((r"scorer/decoder/embed_tokens/.*", False), (r".*", True))
    assert config.compute.to_dict() == {"dtype": "bfloat16", "remat": True}  # the code's


@pytest.mark.parametrize("recipe", VARIANTS)
def test_debug_is_the_shapes_variant_in_small(recipe):
    changed = differences(get_config(recipe, "shapes"), get_config(recipe, "debug"))
    assert changed <= {
        "steps",
        "batch_size",
        "data.root",
        "data.train",
        "data.test",
        "optimizer.warmup_steps",
        "log_every",
        "checkpoint_every",
    }
