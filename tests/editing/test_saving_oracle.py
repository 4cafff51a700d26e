"""PyTorch's diffusers loads what `Editor.save` writes, and edits to the same picture."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_editors import latents, picture, tiny_editor

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::FutureWarning")]

INSTRUCTION = "make the red circle blue"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pipeline_edits_to_the_same_picture(tmp_path, prediction):
    editor = tiny_editor(prediction=prediction)
    editor.save(tmp_path)
    pipeline = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline.scheduler) is diffusers.DDIMScheduler
    settings = {"image_guidance_scale": 1.7, "guidance_scale": 5.0, "num_inference_steps": 4}
    start = torch.from_numpy(np.moveaxis(latents(), -1, 1).copy())
    source = Image.fromarray(picture())
    wanted = pipeline(INSTRUCTION, source, latents=start, output_type="np", **settings).images
    edited = editor.edit(
        source,
        INSTRUCTION,
        steps=4,
        sampler="ddim",
        text_guidance=5.0,
        image_guidance=1.7,
        latents=latents(),
        resolution=None,
        output="array",
    )
    assert edited.std() > 0.1
    np.testing.assert_allclose(edited, wanted, atol=1e-3)


def test_u_net_with_reward_loads_as_a_plain_one(tmp_path):
    """diffusers has no reward modules: it names their tensors and loads the rest."""
    editor = tiny_editor(layout="released")
    editor.save(tmp_path)
    unet, told = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet", output_loading_info=True)
    assert unet.config.in_channels == 8
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    unexpected = set(told["unexpected_keys"])
    assert {name.split(".")[0] for name in unexpected} == {
        "add_embedding",
        "add_embedding2",
        "ca",
        "proj_deal",
        "text_linear",
        "text_linear2",
    }
    kernel = unet.state_dict()["conv_in.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, editor.params["unet"]["conv_in"]["kernel"])


@pytest.mark.parametrize("settings", [{"max_shard_size": "20KB"}, {"variant": "fp16"}, {"safe_serialization": False}])
def test_the_last_saved_editor_is_the_one_that_loads(tmp_path, settings):
    """diffusers takes shards before a single file, so that those of an older U-Net must be gone."""
    editor = tiny_editor()
    editor.save(tmp_path)
    other = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    torch.nn.init.zeros_(other.conv_in.weight)
    other.save_pretrained(tmp_path / "unet", **settings)
    (tmp_path / "unet" / "README.md").write_text("mine")
    assert len(list((tmp_path / "unet").iterdir())) > 3
    editor.save(tmp_path)
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    kernel = unet.state_dict()["conv_in.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, editor.params["unet"]["conv_in"]["kernel"])
    names = {"README.md", "config.json", "diffusion_pytorch_model.safetensors"}
    assert {p.name for p in (tmp_path / "unet").iterdir()} == names


def test_tokenizer_and_text_encoder_load(tmp_path):
    editor = tiny_editor()
    editor.save(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = tokenizer(INSTRUCTION, padding="max_length", max_length=tokenizer.model_max_length).input_ids
    assert len(ids) == 32
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == INSTRUCTION
    encoder = transformers.CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    with torch.no_grad():
        wanted = encoder(torch.tensor([ids])).last_hidden_state.numpy()
    got = editor.base.text_encoder.apply({"params": editor.params["text_encoder"]}, jnp.asarray([ids])).last_hidden
    np.testing.assert_allclose(got, wanted, atol=1e-5)
