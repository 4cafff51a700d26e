"""Files of low-rank differences against diffusers and peft: each reads what the other writes, and predicts the same."""

import numpy as np
import pytest
from adapters import predict, save_editors, unet_inputs, uneven

from rewardedit_jax.weights.adapter_conversion import convert_lora
from rewardedit_jax.weights.adapter_export import export_lora
from rewardedit_jax.weights.pretrained import load_pretrained

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
diffusers = pytest.importorskip("diffusers")
load_file = pytest.importorskip("safetensors.torch").load_file


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    save_editors(folder)
    return folder


def unet(place, file=None):
    """diffusers' network from the plain model, with the differences of a file as its pipelines load them."""
    network = diffusers.UNet2DConditionModel.from_pretrained(place / "plain" / "unet", low_cpu_mem_usage=False).eval()
    if file is not None:
        loader = diffusers.loaders.StableDiffusionLoraLoaderMixin
        state, alphas, metadata = loader.lora_state_dict(file, unet_config=network.config, return_lora_metadata=True)
        loader.load_lora_into_unet(state, alphas, network, adapter_name="ours", metadata=metadata)
    return network


def theirs(network):
    x, context = unet_inputs()
    with torch.no_grad():
        x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        out = network(x, torch.tensor([3.0, 700.0]), torch.from_numpy(context)).sample
    return out.numpy().transpose(0, 2, 3, 1)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_diffusers_reads_our_files(place, form, tmp_path):
    file = tmp_path / "pytorch_lora_weights.safetensors"
    export_lora(str(place / "kept"), form, file)
    found, plain = theirs(unet(place, file)), theirs(unet(place))
    assert np.abs(found - plain).max() > 0.1 * np.abs(plain).max()
    assert_close(found, predict(place / "kept"))


def test_we_read_kohyas_files_with_uneven_layers(place, tmp_path):
    """Ranks and alphas differ from layer to layer. diffusers 0.42 refuses such a file, so weights are added by hand."""
    export_lora(str(place / "kept"), "kohya", tmp_path / "even.safetensors")
    uneven(tmp_path / "even.safetensors", tmp_path / "uneven.safetensors")
    convert_lora(str(place / "plain"), tmp_path / "uneven.safetensors", tmp_path / "out", keep=True)
    network, tensors = unet(place), load_file(tmp_path / "uneven.safetensors")
    layers = {f"lora_unet_{name.replace('.', '_')}": module for name, module in network.named_modules()}
    for name in {key.split(".")[0] for key in tensors}:
        down, up, alpha = (tensors[f"{name}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        difference = alpha / len(down) * (up.flatten(1) @ down.flatten(1))
        layers[name].weight.data += difference.reshape(layers[name].weight.shape)  # proj_in is a 1×1 convolution
    assert_close(predict(tmp_path / "out"), theirs(network))


@pytest.mark.parametrize("alpha", [2, 5])
def test_we_read_diffusers_files(place, alpha, tmp_path):
    network = unet(place)
    torch.manual_seed(0)
    targets = ["to_q", "to_out.0", "ff.net.0.proj"]
    network.add_adapter(peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=targets, init_lora_weights=False))
    state = peft.utils.get_peft_model_state_dict(network)
    metadata = {"unet_lora_adapter_metadata": network.peft_config["default"].to_dict()}
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state, **metadata)
    convert_lora(str(place / "plain"), tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "out", keep=True)
    assert load_pretrained(tmp_path / "out" / "unet")[0].lora.alpha == alpha
    assert_close(predict(tmp_path / "out"), theirs(network))
