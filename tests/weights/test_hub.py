"""Finding a model: local directories, runs, shipped models, and the hub with and without network."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from hub_errors import unreachable
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from rewardedit_jax.weights import hub
from rewardedit_jax.weights.files import write_json
from rewardedit_jax.weights.hub import (
    SHIPPED,
    TOKENIZER_FILES,
    ModelNotFound,
    find_files,
    find_model,
    find_tokenizer,
    shipped_models,
)

COMPONENTS = ("unet", "vae", "text_encoder")


def write_model(directory):
    write_json({"_class_name": "X"}, directory / "model_index.json")
    return directory


def message_of(model, components=COMPONENTS):
    with pytest.raises(ModelNotFound) as error:
        find_model(model, components)
    return str(error.value)


@pytest.fixture
def fake_hub(monkeypatch):
    """A hub whose listing and download can be set; records what is asked of it."""
    state = SimpleNamespace(files=[], error=None, root=None, cached=None, asked=[])

    class Api:
        def model_info(self, repo, timeout):
            assert 0 < timeout <= 30
            if state.error:
                raise state.error
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in state.files])

    def download(repo, allow_patterns, local_files_only=False):
        state.asked.append((repo, tuple(allow_patterns), local_files_only))
        if local_files_only and state.cached is None:
            raise LocalEntryNotFoundError("nothing cached")
        return str(state.cached if local_files_only else state.root)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return state


def test_a_directory(tmp_path):
    assert find_model(write_model(tmp_path / "m"), COMPONENTS) == tmp_path / "m"
    assert find_model(str(tmp_path / "m"), COMPONENTS) == tmp_path / "m"


def test_a_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_model(tmp_path / "m")
    assert find_model("~/m", COMPONENTS) == tmp_path / "m"


@pytest.mark.parametrize("folder", [".saved", ".moving"])
def test_a_model_whose_save_was_killed_at_its_end(tmp_path, folder):
    write_model(tmp_path / "run" / "model" / folder)
    assert find_model(tmp_path / "run", COMPONENTS) == tmp_path / "run" / "model"
    assert [p.name for p in (tmp_path / "run" / "model").iterdir()] == ["model_index.json"]


def test_the_model_of_a_run(tmp_path):
    write_model(tmp_path / "run" / "model")
    assert find_model(tmp_path / "run", COMPONENTS) == tmp_path / "run" / "model"


def test_a_run_that_has_not_finished(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "has not finished" in message_of(tmp_path / "run")


def test_a_shipped_model(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "SHIPPED", tmp_path)
    write_model(tmp_path / "shapes")
    write_model(tmp_path / "tiny")
    assert shipped_models(COMPONENTS) == ["shapes", "tiny"]
    assert find_model("shapes", COMPONENTS) == tmp_path / "shapes"
    assert "Shipped models: shapes, tiny" in message_of("shape")


def test_a_local_directory_goes_before_a_shipped_model(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "shipped" / "shapes")
    write_model(tmp_path / "shapes")
    assert find_model("shapes", COMPONENTS).absolute() == tmp_path / "shapes"


def test_a_directory_without_a_model(tmp_path):
    message = message_of(tmp_path)
    assert "no model_index.json" in message
    assert "unet, vae, text_encoder" in message


@pytest.mark.parametrize("model", ["/nowhere/model", "./nowhere", "../a/b", "no such thing", "name"])
def test_what_is_no_hub_id_is_a_missing_directory(fake_hub, model):
    assert f"there is no directory {model.removeprefix('./')}" in message_of(model)
    assert fake_hub.asked == []


def test_a_hub_id(fake_hub, tmp_path):
    fake_hub.root = write_model(tmp_path)
    fake_hub.files = ["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    assert find_model("owner/name", ["unet"]) == tmp_path
    ((repo, patterns, _),) = fake_hub.asked
    assert repo == "owner/name"
    assert set(patterns) == {
        "model_index.json",
        "tokenizer/*",
        "scheduler/*",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }


def test_a_folder_of_a_hub_repository(fake_hub, tmp_path):
    fake_hub.root = tmp_path
    write_model(tmp_path / "stages" / "two")
    fake_hub.files = ["unet/model.safetensors", "stages/two/unet/model.bf16.safetensors"]
    assert find_model("owner/name/stages/two", ["unet"]) == tmp_path / "stages" / "two"
    patterns = fake_hub.asked[0][1]
    assert "stages/two/unet/model.bf16.safetensors" in patterns
    assert all(pattern.startswith("stages/two/") for pattern in patterns)


@pytest.mark.parametrize(
    ("index", "shards"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-*-of-*.safetensors"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.fp16-*-of-*.safetensors"),
        ("model.fp16.safetensors.index.json", "model.fp16-*-of-*.safetensors"),
    ],
)
def test_shards_of_the_chosen_variant_only(fake_hub, tmp_path, index, shards):
    fake_hub.root, fake_hub.files = write_model(tmp_path), [f"unet/{index}"]
    find_model("owner/name", ["unet"])
    patterns = fake_hub.asked[0][1]
    assert [p for p in patterns if "safetensors" in p] == [f"unet/{index}", f"unet/{shards}"]


def test_a_repository_without_a_pipeline(fake_hub, tmp_path):
    fake_hub.root = tmp_path
    assert "owner/name has no stage/model_index.json" in message_of("owner/name/stage")


@pytest.mark.parametrize("error", unreachable(), ids=lambda error: type(error).__name__)
def test_without_network_the_message_says_what_to_do(fake_hub, error):
    fake_hub.error = error
    message = message_of("owner/name/stage2", ["unet", "vae"])
    assert "no local directory owner/name/stage2/" in message
    assert f"({type(error).__name__}: {str(error).splitlines()[0].rstrip('.')})" in message
    for wanted in ("model_index.json", "unet/", "vae/", "tokenizer/", "scheduler/"):
        assert f"stage2/{wanted}" in message
    assert "copy that folder here by other means and give its path" in message


@pytest.mark.parametrize("error", unreachable()[:2], ids=lambda error: type(error).__name__)
def test_without_network_an_earlier_download_is_taken(fake_hub, tmp_path, error):
    fake_hub.error, fake_hub.cached = error, write_model(tmp_path)
    assert find_model("owner/name", ["unet"]) == tmp_path
    assert fake_hub.asked[0][2]
    # Weights are not asked for: the client would miss the variants that were never wanted.
    assert not [pattern for pattern in fake_hub.asked[0][1] if "safetensors" in pattern]


def test_the_real_client_takes_a_partial_download_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = write_model(folder / "snapshots" / ("0" * 40))
    assert find_model("owner/name", COMPONENTS) == snapshot
    assert "OfflineModeIsEnabled" in message_of("owner/other")


def test_a_download_without_weights(fake_hub, tmp_path):
    fake_hub.root, fake_hub.files = tmp_path, ["config.json", "model.safetensors"]
    (tmp_path / "config.json").write_text("{}")
    assert find_model("owner/name", (), weights=False) == tmp_path
    assert find_model("owner/name", ()) == tmp_path
    small, whole = ([name for name in patterns if "safetensors" in name] for _, patterns, _ in fake_hub.asked)
    assert (small, whole) == ([], ["model.safetensors"])


def test_what_training_writes_lacks_a_config(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"anything")
    message = message_of(tmp_path, ())
    assert "has weights but no config.json: copy there that of its training run or its base model" in message


def test_files_of_pytorch_are_downloaded_where_there_are_no_others(fake_hub, tmp_path):
    fake_hub.root, fake_hub.files = write_model(tmp_path), ["vae/diffusion_pytorch_model.bin", "vae/extra.bin"]
    fake_hub.files += [f"text/{name}" for name in ("pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin")]
    fake_hub.files += ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors"]
    find_model("owner/name", ["unet", "vae", "text"])
    assert [pattern for pattern in fake_hub.asked[0][1] if "pytorch_model" in pattern] == [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "text/pytorch_model.bin.index.json",
        "text/pytorch_model-*-of-*.bin",
    ]


@pytest.mark.parametrize("folder", ["", "stage2/"])
def test_a_tokenizer_alone_is_downloaded(fake_hub, tmp_path, folder):
    fake_hub.root = tmp_path
    assert find_tokenizer(f"owner/name/{folder}".rstrip("/")) == tmp_path / folder
    ((repo, patterns, _),) = fake_hub.asked
    wanted = (*TOKENIZER_FILES, "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
    templates = ("chat_template.json", "chat_template.jinja", "additional_chat_templates/*.jinja")
    assert (repo, sorted(patterns)) == ("owner/name", sorted(folder + name for name in (*wanted, *templates)))


def test_a_tokenizer_that_was_downloaded_before_needs_no_network(fake_hub, tmp_path):
    fake_hub.error, fake_hub.cached = OfflineModeIsEnabled("HF_HUB_OFFLINE is set"), tmp_path
    assert find_tokenizer("owner/name") == tmp_path
    assert fake_hub.asked == [("owner/name", TOKENIZER_FILES, True)]  # nothing that may never have been wanted


@pytest.mark.parametrize("error", unreachable(), ids=lambda error: type(error).__name__)
def test_a_tokenizer_out_of_reach_is_told_with_the_remedy(fake_hub, error):
    fake_hub.error = error
    with pytest.raises(ModelNotFound, match=rf"did not give its tokenizer \({type(error).__name__}: ") as told:
        find_tokenizer("owner/name")
    assert "copy tokenizer.json and tokenizer_config.json here by other means" in str(told.value)
    assert "hf download owner/name tokenizer.json tokenizer_config.json" in str(told.value)


@pytest.mark.parametrize("model", ["/nowhere/model", "./no/where", "no such thing", "name"])
def test_a_tokenizer_is_in_a_directory_or_on_the_hub(fake_hub, tmp_path, model):
    assert find_tokenizer(tmp_path) == tmp_path
    with pytest.raises(ModelNotFound, match="there is no directory"):
        find_tokenizer(model)
    assert fake_hub.asked == []


def test_some_files_of_a_model(fake_hub, tmp_path):
    fake_hub.root = tmp_path
    assert find_files(str(tmp_path), ["a/*"]) == tmp_path
    assert fake_hub.asked == []
    assert find_files("owner/name/part", ["a/*", "b.model"], ["c.json"]) == tmp_path / "part"
    assert fake_hub.asked == [("owner/name", ("part/a/*", "part/b.model", "part/c.json"), False)]
    fake_hub.error = unreachable()[0]
    with pytest.raises(ModelNotFound, match=r"did not give its files .*copy a/\* and b\.model here"):
        find_files("owner/name", ["a/*", "b.model"])


@pytest.mark.parametrize("name", ["a--b/c", "-a/b", "a/b.git"])
def test_names_that_the_hub_does_not_allow_are_told(name):
    with pytest.raises(ModelNotFound, match="HFValidationError"):
        find_model(name, ())


def test_a_single_network_is_found_by_its_config(tmp_path):
    (tmp_path / "model").mkdir()
    for folder in (tmp_path, tmp_path / "model"):
        (folder / "config.json").write_text("{}")  # the recipe of a training run, and its model
    assert find_model(tmp_path, ()) == tmp_path / "model"
    assert find_model(tmp_path / "model", ()) == tmp_path / "model"
    with pytest.raises(ModelNotFound, match=r"has no config.json. Expected beside it: \*.safetensors"):
        find_model(SHIPPED / "shapes" / "tokenizer", ())
