"""A save replaces the model of a directory as a whole, whenever it dies, and leaves the user's files alone."""

from pathlib import Path

import numpy as np
import pytest
from tiny_models import assert_same, draw, tiny_text_encoder, tiny_vae

from rewardedit_jax.weights import saving
from rewardedit_jax.weights.files import WeightFileError, write_json
from rewardedit_jax.weights.pretrained import load_pretrained, save_pretrained
from rewardedit_jax.weights.saving import complete_save, replace_model

STALE = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model-00001-of-00002.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.non_ema.bin",
    "model.safetensors.index.fp16.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "adapter_config.json",
    "adapter_model.safetensors",
    "calibration.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.json",
    "added_tokens.json",
    "chat_template.jinja",
)
OURS = ("README.md", "a.png", "model.json", "pytorch_lora_weights.safetensors", "my_model.safetensors", ".gitignore")


def fill(directory, names):
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("of before")


def put(directory, *files):
    """A save of these files, each with the text "new"."""
    with replace_model(directory) as new:
        for file in files:
            (new / file).parent.mkdir(exist_ok=True)
            (new / file).write_text("new")


def content(directory):
    return {str(p.relative_to(directory)): p.read_text() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("folder", ["", "unet", "safety_checker"])
def test_files_of_the_old_model_go_and_others_stay(tmp_path, folder):
    write_json(dict.fromkeys(["unet", "safety_checker", "../outside"]), tmp_path / "D" / "model_index.json")
    fill(tmp_path / "outside", ["config.json"])
    fill(tmp_path / "D" / "datasets", ["config.json"])  # no folder of the pipeline
    fill(tmp_path / "D" / folder, (*STALE, *OURS))
    put(tmp_path / "D", "unet/config.json", "model_index.json")
    kept = {str(Path(folder) / name): "of before" for name in OURS}
    new = {"unet/config.json": "new", "model_index.json": "new", "datasets/config.json": "of before"}
    assert content(tmp_path / "D") == kept | new
    assert content(tmp_path / "outside") == {"config.json": "of before"}


def test_folders_that_the_new_model_lacks_go(tmp_path):
    put(tmp_path, "model_index.json", "unet/config.json")
    write_json({"unet": []}, tmp_path / "model_index.json")
    put(tmp_path, "config.json", "model.safetensors")
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_a_linked_folder_is_replaced_and_not_what_it_leads_to(tmp_path):
    fill(tmp_path / "other" / "vae", ["config.json"])
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "vae").symlink_to(tmp_path / "other" / "vae")
    put(tmp_path / "D", "vae/config.json")
    assert content(tmp_path / "D") == {"vae/config.json": "new"}
    assert content(tmp_path / "other") == {"vae/config.json": "of before"}


def test_the_recipe_of_a_training_run_stays(tmp_path):
    fill(tmp_path, ["config.json"])
    (tmp_path / "checkpoints").mkdir()
    put(tmp_path, "model_index.json")
    assert content(tmp_path) == {"config.json": "of before", "model_index.json": "new"}


def test_a_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(Path("~/model"), "config.json")
    assert content(tmp_path) == {"model/config.json": "new"}


@pytest.mark.parametrize("before", [{}, {"config.json": "of before", "README.md": "of before"}])
def test_a_save_that_fails_changes_nothing(tmp_path, monkeypatch, before):
    if before:
        fill(tmp_path / "D", before)
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path / "D", "config.json")
    assert [p.name for p in tmp_path.iterdir()] == ["D"] * bool(before)
    assert content(tmp_path) == {f"D/{name}": text for name, text in before.items()}


def test_what_a_killed_save_left_is_not_read_and_goes(tmp_path):
    fill(tmp_path, ["config.json"])
    fill(tmp_path / ".saving", ["half.safetensors"])
    complete_save(tmp_path)
    assert (tmp_path / "config.json").read_text() == "of before"
    put(tmp_path, "config.json")
    assert content(tmp_path) == {"config.json": "new"}


@pytest.mark.parametrize("name", ["unlink", "rename", "replace"])
@pytest.mark.parametrize("nth", range(4))
def test_a_save_killed_while_files_move_is_completed(tmp_path, monkeypatch, name, nth):
    """Killed at each removal and each move: afterwards, all files are of one model."""
    old = dict.fromkeys(["a.png", "config.json", "model.fp16.safetensors", "vocab.json"], "of before")
    fill(tmp_path, old)
    new = dict.fromkeys(["config.json", "model.safetensors", "unet/config.json"], "new") | {"a.png": "of before"}
    calls, act = [], getattr(Path, name)

    def dying(self, *args):
        calls.append(self)
        if len(calls) > nth:
            raise OSError("killed")
        return act(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Path, name, dying)
        try:
            put(tmp_path, "config.json", "model.safetensors", "unet/config.json")
        except OSError:
            assert len(calls) > nth
    complete_save(tmp_path)
    assert content(tmp_path) == (old if (name, nth) == ("rename", 0) else new)


def test_a_load_completes_a_save(tmp_path, monkeypatch):
    params, module = draw(tiny_vae()), tiny_vae()
    with monkeypatch.context() as patch:
        patch.setattr(saving, "complete_save", lambda directory: None)
        save_pretrained(module, params, tmp_path)
    assert not (tmp_path / "config.json").exists()
    assert_same(load_pretrained(tmp_path)[1], params)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_another_network_takes_the_place_of_the_first(tmp_path):
    save_pretrained(tiny_vae(), draw(tiny_vae()), tmp_path)
    save_pretrained(tiny_text_encoder(), draw(tiny_text_encoder()), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert load_pretrained(tmp_path)[0] == tiny_text_encoder()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_not_saved(tmp_path, value):
    module = tiny_vae()
    params = draw(module)
    save_pretrained(module, params, tmp_path)
    broken = draw(module, seed=1)
    broken["encoder"]["conv_in"]["kernel"][0, 0, 0, 0] = value
    with pytest.raises(WeightFileError, match=r"AutoencoderKL.*encoder\.conv_in\.weight has 1 of 216 values"):
        save_pretrained(module, broken, tmp_path)
    assert_same(load_pretrained(tmp_path)[1], params)
