"""Recipes: each variant builds, the two stages differ in the reward and its data, the papers' values."""

import re

import pytest
from ml_collections import FrozenConfigDict
from tiny_models import ROOT, get_config

from rewardedit_jax.editing.recipe import SOURCES, EditingRecipe
from rewardedit_jax.scoring.recipe import PREFERENCES, ScoringRecipe
from rewardedit_jax.shapes.autoencoder_task import AutoencoderRecipe
from rewardedit_jax.shapes.language_task import LanguageRecipe
from rewardedit_jax.shapes.tasks import ShapesEditingRecipe, ShapesScoringRecipe
from rewardedit_jax.training.recipe import check_recipe, read_recipe
from rewardedit_jax.training.recipe_check import check_section

ALL = ("", "shapes", "debug")
SMALL = ALL[1:]
VARIANTS = {"autoencoder": SMALL, "llava": SMALL, "ip2p": ALL, "smartedit": ALL, "reward_smartedit": ALL}
VARIANTS |= {"reward_ip2p": (*ALL, "lora"), "edit_reward": (*ALL, "lora")}
SCHEMAS = {
    "editing": EditingRecipe,
    "scoring": ScoringRecipe,
    "shapes_editing": ShapesEditingRecipe,
    "shapes_scoring": ShapesScoringRecipe,
    "shapes_autoencoder": AutoencoderRecipe,
    "shapes_language": LanguageRecipe,
}
# Settings that have a meaning without a value.
OPTIONAL = {f"optimizer.{name}" for name in ("clip_norm", "ema_decay", "mu_dtype")}
OPTIONAL |= {f"objective.settings.{name}" for name in ("margin", "draws", "tau", "k", "ties")}
OPTIONAL |= {"data.cache", "lora", "stall_seconds", "network.unet.sample_size"}  # the last is diffusers' own
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


def read_variant(recipe, variant, overrides):
    """The recipe with each field overridden by the word given for its path."""
    words = [f"--config.{path}={word}" for path, word in overrides.items()]
    return read_recipe(f"{ROOT}/configs/{recipe}.py:{variant}", words)


def faulty(config):
    """The settings that the check refuses."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_section(config.to_dict(), SCHEMAS[config.task])
    return {re.match(r"[\w.]+", fault)[0] for fault in caught.value.args}


@pytest.mark.parametrize(("recipe", "variant"), EVERY)
def test_every_field_can_be_set_on_the_command_line(recipe, variant):
    config = get_config(recipe, variant)
    check_recipe(config, SCHEMAS[config.task])
    same = read_variant(recipe, variant, leaves(config))
    assert leaves(same) == leaves(config)
    check_recipe(same, SCHEMAS[config.task])


@pytest.mark.parametrize(("recipe", "variant"), EVERY)
def test_every_field_can_be_unset_or_says_that_it_cannot(recipe, variant):
    config = get_config(recipe, variant)
    # A tuple or a dict is emptied by () or {}.
    single = [path for path, value in leaves(config).items() if not isinstance(value, tuple | dict) and path != "task"]
    unset = read_variant(recipe, variant, dict.fromkeys(single, "None"))
    assert {path for path in single if leaves(unset)[path] is not None} == set()
    optional = OPTIONAL.intersection(single)
    check_recipe(read_variant(recipe, variant, dict.fromkeys(optional, "None")), SCHEMAS[config.task])
    described = ("network.", "schedule.")  # by settings that may be null in files
    refused = {path for path in faulty(unset) if not path.startswith(described)}
    assert refused == {path for path in single if path not in optional and not path.startswith(described)}


@pytest.mark.parametrize(("recipe", "variant"), EVERY)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_every_number_is_finite(recipe, variant, value):
    config = get_config(recipe, variant)
    numbers = [path for path, field in leaves(config).items() if isinstance(field, float)]
    assert faulty(read_variant(recipe, variant, dict.fromkeys(numbers, value))) == set(numbers)


# Recipe → setting → values that the check refuses.
WRONG = {
    "reward_ip2p": {
        "base_editor": ["pix2pix"],
        "compute.dtype": ["fp16", "float64", None],
        "compute.remat": [True, "full"],
        # The instruction, the source and both are dropped with this probability each.
        "conditioning_dropout": [0.5, 1 / 3, 5.0, -0.1],
        "data.flip": ["yes"],
        "data.name": ["shape"],
        "data.resolution": [0, 32.0],
        "data.root": [""],
        "data.threads": [-1],
        "data.train": [0],
        "init": [""],
        "network.text_encoder": [{"num_attention_heads": 0}],
        "network.tokenizer": [3],
        "network.unet": [{"in_channels": "sixteen"}, {"block_out_channels": (8, -8)}, {"block_out_channels": None}],
        "network.vae": [{"latent_channels": 2.5}, {"latent_channel": 4}],
        "reward.dropout": [1.0],
        "reward.layout": ["papr"],
        "reward.paths": [("addition", "attention"), ("addition", "addition")],
        "reward.perspectives": [("beauty",)],
        "reward.sources": [(), ("score",), "scores"],
        "schedule": [{"beta_schedule": "steep"}],
        "trainable": [(), (("unet/(", True),), ((".*", "yes"),), ((".*", False),)],
    },
    "edit_reward": {
        "base": [""],
        "data.area": [100],
        "data.image_patches": [6],
        "data.name": ["pairs"],
        "data.row_tokens": [0],
        "data.ties": ["both"],
        "heads.aggregation": ["max"],
        "heads.hidden_sizes": [(8,), (8, 0)],
        "heads.kind": ["double"],
        "network.text": [{"hidden_size": "wide"}, {"rope_scaling": {"mrope_section": "x"}}],
        "network.vision": [{"depth": 1, "num_heads": 0}],
        "objective.name": ["rank"],
        "objective.settings.draws": [0],
        "objective.settings.k": [1.0],
        "objective.settings.ties": ["half"],
        "positions": ["rope"],
    },
    "llava": {
        "alignment_weight": [-1.0],
        "data.instructions": [0],
        "data.name": ["triplets"],
        "data.tokens": [1.5],
        "init": [None],
        "network.language_model": [{"mm_vision_select_layer": "last"}, {"hidden_size": 128}],
        "network.qformer": [{"hidden_act": "relu"}],
    },
    "autoencoder": {
        "data.name": ["triplets"],
        "data.resolution": [33],
        "kl_weight": [-1e-6],
        "network.vae": [{"layers_per_block": "one"}],
    },
}


@pytest.mark.parametrize(
    ("recipe", "path", "value"),
    [(recipe, path, value) for recipe, paths in WRONG.items() for path, values in paths.items() for value in values],
)
def test_a_wrong_setting_is_named(recipe, path, value):
    config = section = get_config(recipe, "debug")
    *sections, name = path.split(".")
    for part in sections:
        section = section[part]
    with section.ignore_type():
        section[name] = value
    (fault,) = faulty(config)
    assert fault.startswith(path)


@pytest.mark.parametrize("recipe", ["reward_ip2p", "edit_reward"])
def test_wrong_settings_of_lora_are_named(recipe):
    config = get_config(recipe, "lora")
    config.lora.update(rank=0, alpha=-1.0, dropout=1.0)
    assert faulty(config) == {"lora.rank", "lora.alpha", "lora.dropout"}


def test_settings_that_do_not_fit_the_objective_are_named():
    config = get_config("edit_reward", "debug")
    config.objective.settings.tau = 0.5
    assert faulty(config) == {"objective.settings"}


@pytest.mark.parametrize(("recipe", "variant"), EVERY)
def test_variants_share_their_fields(recipe, variant):
    """A variant changes values and adds none but the sizes and the words of the shapes world."""
    # In the shapes world kernels train as a whole.
    free = ("network.", "schedule", "data.train", "data.test", "words_weight", "lora")
    ours, full = (
        {path for path in leaves(get_config(recipe, v)) if not path.startswith(free)}
        for v in (variant, VARIANTS[recipe][0])
    )
    assert ours == full


@pytest.mark.parametrize("recipe", VARIANTS)
def test_an_unknown_variant_is_refused(recipe):
    with pytest.raises(ValueError, match=rf"'shape' of {recipe}\.py: expected"):
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
        "eight_bit": False,
    }
    assert (config.steps, config.accumulate, config.compute.remat) == (10_000, 4, "all")
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
        "eight_bit": False,
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
    assert config.compute.to_dict() == {"dtype": "bfloat16", "remat": "all"}  # the code's


@pytest.mark.parametrize("recipe", VARIANTS)
def test_debug_is_the_shapes_variant_in_small(recipe):
    changed = differences(get_config(recipe, "shapes"), get_config(recipe, "debug"))
    # Of SmartEdit, the shapes variants start from trainings, which take longer than seconds.
    assert {path for path in changed if not path.startswith("network.")} - {"init"} <= {
        "steps",
        "batch_size",
        "data.root",
        "data.train",
        "data.test",
        "optimizer.warmup_steps",
        "log_every",
        "checkpoint_every",
        "evaluate_every",
    }
