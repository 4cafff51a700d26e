"""The editor in PyTorch: diffusers' U-Net and pipeline, with the reward modules of the published weights added.

The modules are those of `rewardedit_jax/models/reward_released.py`. They wrap two of the U-Net's own, the first
convolution and the time embedding, and read the reward from an attribute, since the U-Net has no argument for it.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.models.layers import sinusoid
from rewardedit_jax.models.unet import UNetConfig

_SCORE_CHANNELS = 256  # of the sinusoid of one score
# Names of the published checkpoint begin with these; here they lie below the wrapped module.
_BELOW = {
    "time_embedding": ("add_embedding.", "text_linear2."),
    "conv_in": ("add_embedding2.", "text_linear.", "proj_deal.", "ca."),
}


class EmbeddingMLP(nn.Module):
    """diffusers' `TimestepEmbedding`: linear, SiLU, linear."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(channels, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class RewardAddition(nn.Module):
    """The time embedding plus embeddings of scores and pooled text."""

    def __init__(self, inner: nn.Module, width: int, text: int, scores: int):
        super().__init__()
        self.inner, self.reward = inner, None
        self.add_embedding, self.text_linear2 = EmbeddingMLP(scores, width), nn.Linear(text, width)

    def forward(self, sample: Tensor, condition: Any = None) -> Tensor:
        scores, text = self.reward
        return self.inner(sample, condition) + self.add_embedding(scores) + self.text_linear2(text)


class RewardAttention(nn.Module):
    """The first feature map plus a BERT layer that attends to two tokens, scores and text."""

    def __init__(self, inner: nn.Module, width: int, groups: int, text: int, scores: int, heads: int, dropout: float):
        super().__init__()
        self.inner, self.reward, self.heads, self.dropout = inner, None, heads, dropout
        self.add_embedding2, self.text_linear = EmbeddingMLP(scores, width), nn.Linear(text, width)
        ends = {name: nn.Conv2d(width, width, 1) for name in ("proj_in", "proj_out")}
        self.proj_deal = nn.ModuleDict({"norm": nn.GroupNorm(groups, width, eps=1e-6), **ends})
        linear, norm = lambda: nn.Linear(width, width), lambda: nn.LayerNorm(width, eps=1e-12)
        closing = lambda: nn.ModuleDict({"dense": linear(), "LayerNorm": norm()})  # noqa: E731
        projections = nn.ModuleDict({name: linear() for name in ("query", "key", "value")})
        self.ca = nn.ModuleDict(
            {
                "attention": nn.ModuleDict({"self": projections, "output": closing()}),
                "hidden_intermediate": nn.ModuleDict({"dense": linear()}),
                "output": closing(),
            }
        )

    def forward(self, sample: Tensor) -> Tensor:
        x = self.inner(sample)
        b, c, h, w = x.shape
        y = self.proj_deal["proj_in"](self.proj_deal["norm"](x)).flatten(2).transpose(1, 2)
        scores, text = self.reward
        y = self._bert(y, torch.stack([self.add_embedding2(scores), self.text_linear(text)], 1))
        return x + self.proj_deal["proj_out"](y.transpose(1, 2).reshape(b, c, h, w))

    def _bert(self, x: Tensor, tokens: Tensor) -> Tensor:
        drop = self.dropout if self.training else 0.0
        attention, part = self.ca["attention"], self.ca["attention"]["self"]
        query, key, value = (
            part[name](y).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for name, y in (("query", x), ("key", tokens), ("value", tokens))
        )
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=drop).transpose(1, 2).flatten(2)
        x = self._close(attention["output"], y, x, drop)
        return self._close(self.ca["output"], F.gelu(self.ca["hidden_intermediate"]["dense"](x)), x, drop)

    def _close(self, part: nn.ModuleDict, y: Tensor, x: Tensor, drop: float) -> Tensor:
        return part["LayerNorm"](x + F.dropout(part["dense"](y), drop))


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_unet(config: UNetConfig) -> nn.Module:
    """diffusers' U-Net, with the reward modules of the released layout if the config has them."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # takes seconds, and attention needs none

    described = {name: value for name, value in config.to_hf().items() if name != "reward_condition"}
    with torch.device(device()):
        unet = UNet2DConditionModel.from_config(described)
        if (reward := config.reward) is not None:
            shared = {"text": config.cross_attention_dim, "scores": len(reward.columns) * reward.score_channels}
            first, groups = config.block_out_channels[0], config.norm_num_groups
            unet.time_embedding = RewardAddition(unet.time_embedding, config.time_width, **shared)
            settings = {**shared, "heads": reward.heads, "dropout": reward.dropout}
            unet.conv_in = RewardAttention(unet.conv_in, first, groups, **settings)
    # Convolutions of half precision on GPUs are faster with channels last.
    return unet.to(memory_format=torch.channels_last) if device() == "cuda" else unet


def set_reward(unet: nn.Module, scores: Any, text: Any) -> None:
    """The scores [b, 3] in 0..5 and pooled text states [b, d] that the next calls are conditioned on."""
    weight = unet.time_embedding.text_linear2.weight
    encoded = torch.from_numpy(np.array(sinusoid(jnp.asarray(scores), _SCORE_CHANNELS))).flatten(1).to(weight)
    unet.conv_in.reward = unet.time_embedding.reward = encoded, torch.from_numpy(np.array(text)).to(weight)


def load_weights(unet: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Load tensors with the names of the published checkpoint."""
    unet.load_state_dict({_name(name): torch.from_numpy(np.array(x)) for name, x in tensors.items()})


def _name(published: str) -> str:
    for wrapped, names in _BELOW.items():
        if published.startswith(names):
            return f"{wrapped}.{published}"
        if published.startswith(f"{wrapped}."):
            return published.replace(wrapped, f"{wrapped}.inner", 1)
    return published


def training_step(unet: nn.Module, examples: Any, dtype: str, compiled: bool) -> Callable[[], float]:
    """A step of the recipe on cached examples: noise, loss, gradients, clipping, AdamW and moving average in float32.

    Args:
      examples: the `Precomputed` of `networks.cached_examples`.
      dtype: with "bfloat16", the U-Net computes in it under autocast.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    of = lambda x: torch.as_tensor(np.array(x), device=device())  # noqa: E731
    nchw = lambda x: of(x).permute(0, 3, 1, 2).contiguous()  # noqa: E731
    mean, std, source = nchw(examples.edited.mean), nchw(examples.edited.std), nchw(examples.source)
    context, scheduler = of(examples.request.instruction), DDIMScheduler(beta_schedule="scaled_linear")
    set_reward(unet.train(), examples.request.reward.scores, examples.request.reward.text)
    params = list(unet.parameters())
    optimizer = torch.optim.AdamW(params, 5e-5, (0.9, 0.999), 1e-8, 1e-2, fused=True)
    average = [p.detach().clone() for p in params]
    run = torch.compile(unet) if compiled else unet

    def step() -> float:
        noise, times = torch.randn_like(mean), torch.randint(1000, (len(mean),), device=mean.device)
        noisy = scheduler.add_noise(0.18215 * (mean + std * torch.randn_like(std)), noise, times)
        with torch.autocast(device(), torch.bfloat16, enabled=dtype == "bfloat16"):
            output = run(torch.cat([noisy, source], 1), times, context, return_dict=False)[0]
        loss = F.mse_loss(output.float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [p.detach() for p in params], 1e-4)
        return loss.item()  # waits

    return step


def repeated_attention(shape: tuple[int, ...], dtype: str, gradients: bool, calls: int) -> Callable[[], None]:
    """Calls of PyTorch's attention, one after the other. shape: batch, queries, keys, heads, head width."""
    batch, queries, keys, heads, width = shape
    settings = {"device": device(), "dtype": getattr(torch, dtype), "requires_grad": gradients}
    arrays = [torch.randn(batch, heads, n, width, **settings) for n in (queries, keys, keys)]

    def run() -> None:
        for _ in range(calls):
            out = F.scaled_dot_product_attention(*arrays)
            if gradients:
                torch.autograd.grad(out, arrays, out.detach())
        wait()

    return run


def wait() -> None:
    """Until the device has done what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_pipeline(base: InstructPix2Pix, dtype: str) -> Any:
    """diffusers' pipeline of the base's sizes, with random weights; every network in `dtype`, the autoencoder too."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInstructPix2PixPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    text = {name: value for name, value in base.text_encoder.config.to_hf().items() if not name.startswith("_")}
    with torch.device(device()):
        vae = AutoencoderKL.from_config(base.vae.config.to_hf())
        text_encoder = CLIPTextModel(CLIPTextConfig(**text))
    networks = {"unet": make_unet(base.unet.config), "vae": vae, "text_encoder": text_encoder}
    networks = {name: network.eval().to(getattr(torch, dtype)) for name, network in networks.items()}
    pipeline = StableDiffusionInstructPix2PixPipeline(
        **networks,
        tokenizer=base.tokenizer,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextlib.contextmanager
def freed() -> Iterator[None]:
    """Gives a GPU's memory back at the end, for what is measured next."""
    try:
        yield
    finally:
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
