"""Files of low-rank differences: written and read in both forms, merged or kept, refused where they do not fit."""

import argparse
import json

import numpy as np
import pytest
from adapters import LAYER, predict, save_editors, uneven
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file
from tiny_models import assert_same, draw, tiny_unet
from tiny_scorers import shapes_scorer

from rewardedit_jax import Editor
from rewardedit_jax.models.lora import LoRA
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.weights.adapter_conversion import convert_lora
from rewardedit_jax.weights.adapter_export import export_lora
from rewardedit_jax.weights.convert_command import add_lora
from rewardedit_jax.weights.engine import WeightMismatch
from rewardedit_jax.weights.files import WeightFileError, read_json, read_weights
from rewardedit_jax.weights.low_rank import target_patterns
from rewardedit_jax.weights.pretrained import load_pretrained

FORMS = ("peft", "kohya")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model with differences (kept), the same without (plain), and files of the differences in both forms."""
    folder = tmp_path_factory.mktemp("adapters")
    save_editors(folder)
    for form in FORMS:
        export_lora(str(folder / "kept"), form, folder / f"{form}.safetensors")
    return folder


@pytest.fixture(scope="module")
def expected(place):
    return predict(place / "kept")


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_names_are_those_of_peft_and_of_kohya(place):
    peft, kohya = (load_file(place / f"{form}.safetensors") for form in FORMS)
    assert peft[f"unet.{LAYER}.lora_A.weight"].shape == (3, 12)
    assert peft[f"unet.{LAYER}.lora_B.weight"].shape == (8, 3)
    layer = "lora_unet_" + LAYER.replace(".", "_")
    np.testing.assert_array_equal(kohya[f"{layer}.lora_down.weight"], peft[f"unet.{LAYER}.lora_A.weight"])
    np.testing.assert_array_equal(kohya[f"{layer}.lora_up.weight"], peft[f"unet.{LAYER}.lora_B.weight"])
    assert kohya[f"{layer}.alpha"] == 6
    assert kohya["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"].shape == (3, 16, 1, 1)  # a convolution
    assert len(kohya) == 3 * len(peft) / 2 == 3 * 4 * 6


@pytest.mark.parametrize("form", FORMS)
def test_a_kept_file_gives_the_model_it_is_from(place, form, tmp_path):
    convert_lora(str(place / "plain"), place / f"{form}.safetensors", tmp_path / "out", keep=True)
    found, editor = Editor.load(tmp_path / "out"), Editor.load(place / "kept")
    assert_same(found.params, editor.params)
    lora = found.base.unet.lora
    assert (lora.rank, lora.alpha) == (3, 6.0)
    assert len(lora.targets) == 4 * 3  # down, middle and up
    # Everything else is as it was.
    for file in ("model_index.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (place / "plain" / file).read_bytes()


@pytest.mark.parametrize("model", ["plain", "kept"])
def test_merged_computes_what_unmerged_does(place, expected, model, tmp_path):
    """From a file, or of the model itself."""
    convert_lora(str(place / model), place / "kohya.safetensors" if model == "plain" else None, tmp_path / "out")
    assert "lora" not in read_json(tmp_path / "out" / "unet" / "config.json")
    assert_close(predict(tmp_path / "out"), expected)


def test_layers_may_have_ranks_and_alphas_of_their_own(place, tmp_path):
    tensors = uneven(place / "kohya.safetensors", tmp_path / "uneven.safetensors")
    for keep in (True, False):
        convert_lora(str(place / "plain"), tmp_path / "uneven.safetensors", tmp_path / f"keep{keep}", keep=keep)
    assert_close(predict(tmp_path / "keepFalse"), predict(tmp_path / "keepTrue"))
    layer = "lora_unet_" + LAYER.replace(".", "_")
    down, up, alpha = (tensors[f"{layer}.{name}"] for name in ("lora_down.weight", "lora_up.weight", "alpha"))
    plain, merged = (
        read_weights(folder / "unet")[f"{LAYER}.weight"] for folder in (place / "plain", tmp_path / "keepFalse")
    )
    np.testing.assert_allclose(merged, plain + alpha / len(down) * up @ down, atol=1e-6)
    assert load_pretrained(tmp_path / "keepTrue" / "unet")[0].lora.rank == 4


def test_merged_weights_can_be_cast(place, tmp_path):
    convert_lora(str(place / "kept"), None, tmp_path / "out", dtype="float16")
    types = {name: str(x.dtype) for name, x in read_weights(tmp_path / "out" / "unet").items()}
    assert types[f"{LAYER}.weight"] == "float16"
    assert types["conv_in.weight"] == "float32"


def refused(place, tmp_path, error, *, model="plain", file=None, **given):
    """The message; nothing is written."""
    with pytest.raises(error) as caught:
        convert_lora(str(place / model), file or place / "peft.safetensors", tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def changed(place, tmp_path, change):
    tensors = load_file(place / "peft.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({f"unet.{LAYER}.lora_B.weight": (9, 3)}, [LAYER, "[9, 3]", "[8, rank]"]),
        ({f"unet.{LAYER}.lora_A.weight": (2, 12)}, [LAYER, "[2, 12] and [8, 3]"]),
        ({f"unet.{LAYER}.lora_A.weight": (0, 12), f"unet.{LAYER}.lora_B.weight": (8, 0)}, [LAYER, "[0, 12]"]),
        ({f"unet.{LAYER}.lora_B.weight": None}, [LAYER, "no lora_B"]),
        ({f"unet.{LAYER}.lora_magnitude_vector": (8,)}, ["lora_magnitude_vector", "[8]", "is not of LoRA"]),
        (
            {"unet.conv_in.lora_A.weight": (3, 8, 3, 3), "unet.conv_in.lora_B.weight": (8, 3, 1, 1)},
            ["unet.conv_in: the model has no dense layer", "[3, 8, 3, 3] and [8, 3, 1, 1]"],
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_names_and_shapes(place, change, parts, tmp_path):
    def apply(tensors):
        for name, shape in change.items():
            tensors.pop(name, None)
            if shape is not None:
                tensors[name] = np.zeros(shape, np.float32)

    message = refused(place, tmp_path, WeightMismatch, file=changed(place, tmp_path, apply))
    assert all(part in message for part in ("changed.safetensors", "(1 faults)", *parts))


def test_a_file_for_another_network_is_refused(place, tmp_path):
    def rename(tensors):
        for name in list(tensors):
            tensors[name.replace("unet.down_blocks.0", "unet.down_blocks.7")] = tensors.pop(name)

    message = refused(place, tmp_path, WeightMismatch, file=changed(place, tmp_path, rename))
    assert f"unet.{LAYER.replace('0', '7', 1)}" in message
    assert "another network" in message


def test_a_damaged_file_is_refused(place, tmp_path):
    whole = (place / "peft.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cut.safetensors" in refused(place, tmp_path, WeightFileError, file=tmp_path / "cut.safetensors")
    assert "there is no file" in refused(place, tmp_path, WeightFileError, file=tmp_path / "none.safetensors")


def test_settings_in_the_header_are_read_or_refused(place, tmp_path):
    tensors = load_file(place / "peft.safetensors")

    def kept(**settings):
        file = tmp_path / "header.safetensors"
        header = {f"unet.{name}": value for name, value in settings.items()}
        save_file(tensors, file, {"lora_adapter_metadata": json.dumps(header)})
        return file

    for settings, alpha in (({}, 3.0), ({"lora_alpha": 12}, 12.0), ({"lora_alpha": 3**0.5, "use_rslora": True}, 3.0)):
        convert_lora(str(place / "plain"), kept(**settings), tmp_path / "out", keep=True)
        assert read_json(tmp_path / "out" / "unet" / "config.json")["lora"]["alpha"] == pytest.approx(alpha)
    convert_lora(str(place / "plain"), kept(lora_alpha=3, alpha_pattern={"attn2.to_v": 6}), tmp_path / "out")
    a, b = (tensors[f"unet.{LAYER}.lora_{x}.weight"] for x in "AB")
    plain, merged = (read_weights(folder / "unet")[f"{LAYER}.weight"] for folder in (place / "plain", tmp_path / "out"))
    np.testing.assert_allclose(merged, plain + 2 * b @ a, atol=1e-6)
    refused(place, tmp_path / "dora", WeightFileError, file=kept(use_dora=True))
    refused(place, tmp_path / "text", WeightFileError, file=kept(lora_alpha="much"))


def test_a_model_is_not_adapted_twice_or_merged_without_lora(place, tmp_path):
    assert "has LoRA already" in refused(place, tmp_path, WeightFileError, model="kept")
    with pytest.raises(WeightFileError, match="no network has LoRA"):
        convert_lora(str(place / "plain"), None, tmp_path / "out")
    with pytest.raises(WeightFileError, match="no network with LoRA"):
        export_lora(str(place / "plain"), "peft", tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="another directory than --model"):
        convert_lora(str(place / "kept"), None, place / "kept")


def test_a_scorer_goes_to_peft_and_back(tmp_path):
    scorer = shapes_scorer()
    module = scorer.module.clone(lora=LoRA(rank=2, alpha=3.0, targets=(r"decoder/.*/[qv]_proj",)))
    adapted = Scorer(module, draw(module), scorer.tokenizer, area=scorer.area)
    adapted.save(tmp_path / "kept")
    convert_lora(str(tmp_path / "kept"), None, tmp_path / "merged")
    assert Scorer.read(tmp_path / "merged").module.lora is None
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    export_lora(str(tmp_path / "kept"), "peft", file)
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in load_file(file)
    assert read_json(file.parent / "adapter_config.json")["lora_alpha"] == 3
    scorer.save(tmp_path / "plain")
    convert_lora(str(tmp_path / "plain"), file, tmp_path / "again", keep=True)
    found = Scorer.read(tmp_path / "again")
    assert (found.module.lora.alpha, found.system, found.area) == (3, adapted.system, adapted.area)
    flat, before = (flatten_dict(s.params, sep="/") for s in (found, adapted))
    assert all(np.array_equal(flat[path], before[path]) for path in before if "lora_" in path)
    with pytest.raises(WeightFileError, match="kohya has no names for"):
        export_lora(str(tmp_path / "kept"), "kohya", tmp_path / "kohya.safetensors")


def test_the_command(place, tmp_path):
    parser = argparse.ArgumentParser()
    add_lora(parser.add_subparsers())
    words = ["lora", "--model", str(place / "kept"), "--out", str(tmp_path / "out")]
    arguments = parser.parse_args(words)
    assert "written:" in arguments.run(arguments)
    arguments = parser.parse_args([*words, "--keep"])
    with pytest.raises(ValueError, match="--keep: expected --lora"):
        arguments.run(arguments)
    words = [
        "lora-export",
        "--model",
        str(place / "kept"),
        "--format",
        "kohya",
        "--out",
        str(tmp_path / "a.safetensors"),
    ]
    arguments = parser.parse_args(words)
    assert f"{3 * 4 * 6} tensors" in arguments.run(arguments)


def test_patterns_match_the_chosen_layers_alone():
    layers = [f"{side}_{i}/to_{x}" for side in ("up", "down") for i in range(11) for x in "qv"]
    assert target_patterns([x for x in layers if x.endswith("q")], layers) == (r"down_\d+/to_q", r"up_\d+/to_q")
    chosen = ["up_1/to_q", "up_10/to_q"]
    lora = LoRA(1, 1.0, target_patterns(chosen, layers))
    assert [layer for layer in layers if lora.applies(layer)] == chosen
    assert tiny_unet(lora=lora).lora == lora
