"""The errors of `Scorer.load`: a missing or wrong tokenizer is reported before any weights are read."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_scorers import shapes_scorer, tiny_config, tiny_scorer
from torch_files import save_torch_zip

from rewardedit_jax import Scorer
from rewardedit_jax.scoring.edit_score import Calibration
from rewardedit_jax.scoring.prompts import NO_SYSTEM
from rewardedit_jax.weights.files import WeightFileError, read_json, write_json
from rewardedit_jax.weights.pretrained import PretrainedNetwork, save_pretrained

NO_SYSTEM_TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ALMOST = "<|im_start|>system\nBe brief.<|im_end|>\n" + NO_SYSTEM_TURN


@pytest.fixture(scope="module")
def scorer():
    return shapes_scorer()


@pytest.fixture
def published(scorer, tmp_path):
    """(checkpoint without tokenizer and without our settings, base directory with a tokenizer and no weights)."""
    save_pretrained(scorer.module, scorer.params, tmp_path / "model")
    change_config(tmp_path / "model", reward_model=None)
    scorer.tokenizer.base.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "chat_template.json").write_text(json.dumps({"chat_template": ALMOST}))
    return tmp_path / "model", tmp_path / "base"


@pytest.fixture
def hub(monkeypatch, published):
    """A hub with both, `asked` for patterns of file names; weights appear when they are asked for."""
    model, base = published
    asked = []
    weights = (model / "model.safetensors").rename(model.parent / "weights")

    def download(repo, allow_patterns, local_files_only=False):
        asked.append((repo, tuple(allow_patterns)))
        if repo == "owner/model" and "model.safetensors" in allow_patterns:
            shutil.copy(weights, model / "model.safetensors")
        return str({"owner/model": model, "owner/base": base}[repo])

    files = [SimpleNamespace(rfilename=name) for name in ("config.json", "model.safetensors")]
    api = SimpleNamespace(model_info=lambda repo, timeout: SimpleNamespace(siblings=files))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def change_config(directory, **settings):
    write_json({**read_json(directory / "config.json"), **settings}, directory / "config.json")


def test_a_published_model_and_its_bases_tokenizer_come_from_the_hub(hub, scorer):
    loaded = Scorer.load("owner/model", base="owner/base")
    assert (loaded.system, loaded.tokenizer.reward_id) == ("Be brief.", scorer.tokenizer.reward_id)
    assert [repo for repo, _ in hub] == ["owner/model", "owner/base", "owner/model"]
    assert [any("safetensors" in name for name in patterns) for _, patterns in hub] == [False, False, True]


def test_no_weights_are_downloaded_for_want_of_a_tokenizer(hub):
    with pytest.raises(FileNotFoundError, match="base="):
        Scorer.load("owner/model")
    assert not any("safetensors" in name for _, patterns in hub for name in patterns)


@pytest.fixture
def unread(monkeypatch):
    """Fails where weights are read, and not only the names and shapes of tensors."""
    monkeypatch.setattr(PretrainedNetwork, "read", lambda *_: pytest.fail("weights were read"))


def test_no_weights_are_read_for_want_of_a_tokenizer(published, unread):
    with pytest.raises(FileNotFoundError, match="base="):
        Scorer.load(published[0])


def test_no_weights_are_read_where_embedding_rows_do_not_fit(published, unread, tmp_path):
    image_id = read_json(published[0] / "config.json")["image_token_id"]
    save_pretrained(*tiny_scorer(tiny_config(image_token_id=image_id)), tmp_path / "other")
    with pytest.raises(ValueError, match="601 embedding rows"):
        Scorer.load(tmp_path / "other", base=published[1])


def test_no_weights_are_read_where_the_image_token_is_another(published, unread):
    change_config(published[0], image_token_id=7)
    with pytest.raises(ValueError, match=r"image_token_id=7 in .*config\.json"):
        Scorer.load(*published)


def test_another_network_is_reported(published):
    change_config(published[0], vision_config=None)
    with pytest.raises(WeightFileError, match=r"config\.json has no vision_config"):
        Scorer.load(*published)


def test_an_unknown_setting_is_reported(published):
    change_config(published[0], reward_model={"aggregaton": "min", "area": 784})
    with pytest.raises(WeightFileError, match="aggregaton of reward_model; expected kind, aggregation, positions"):
        Scorer.load(*published)


def test_what_published_training_writes_is_read(published, scorer):
    """A state dict under the key "model" in model.pth, with the names that PyTorch gives to the parameters."""
    tensors = load_file(published[0] / "model.safetensors")
    save_torch_zip({"model": tensors}, published[0] / "model.pth")
    (published[0] / "model.safetensors").unlink()
    loaded = Scorer.load(*published)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, scorer.params)


@pytest.mark.parametrize(
    ("settings", "system"),
    [({}, "Be brief."), ({"system": "Hm."}, "Hm."), ({"system": ""}, ""), ({"system": None}, "Be brief.")],
)
def test_the_system_turn_of_the_config_precedes_the_template(published, settings, system):
    change_config(published[0], reward_model=settings)
    assert Scorer.read(*published).system == system


def test_a_model_without_system_turn_is_saved_and_read(published, scorer, tmp_path):
    (published[1] / "chat_template.json").write_text(json.dumps({"chat_template": NO_SYSTEM_TURN}))
    loaded = Scorer.read(*published)
    assert loaded.system == NO_SYSTEM
    loaded.save(tmp_path / "saved")
    again = Scorer.read(tmp_path / "saved")
    assert again.system == NO_SYSTEM
    assert again.fingerprint == loaded.fingerprint != replace(loaded, system="").fingerprint


def test_a_save_leaves_nothing_of_the_scorer_before(scorer, tmp_path):
    reference = Calibration("edits of before", np.zeros((4, 2), np.float32))
    replace(scorer, calibration=reference).save(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    (tmp_path / "README.md").write_text("mine")
    scorer.save(tmp_path)
    files = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {p.name for p in tmp_path.iterdir()} == files
    assert Scorer.read(tmp_path).calibration is None


def test_weights_that_are_not_finite(scorer, tmp_path):
    scorer.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["rm_heads.head_1.5.bias"][1] = np.inf
    save_file(tensors, tmp_path / "model.safetensors")
    named = r"model\.safetensors: tensor rm_heads\.head_1\.5\.bias has 1 of 2 .*allow_nonfinite"
    for load in (Scorer.load, Scorer.read):
        with pytest.raises(WeightFileError, match=named):
            load(tmp_path)
    with pytest.raises(WeightFileError, match=r"EditReward is not saved: tensor rm_heads\.head_1\.5\.bias"):
        Scorer.load(tmp_path, allow_nonfinite=True).save(tmp_path / "new")


@pytest.mark.parametrize("settings", [[], {"area": "784"}, {"area": 0}, {"system": 5}])
def test_settings_of_wrong_types_are_named(published, unread, settings):
    change_config(published[0], reward_model=settings)
    with pytest.raises(WeightFileError, match=r"config\.json: reward_model"):
        Scorer.load(*published)
