"""A training step of Reward-SmartEdit beside one of Reward-InsPix2Pix, both from a cache, with equal U-Nets.

  python benchmarks/smartedit_step.py

The cache holds what the language model and the networks behind it make of an example. What is left of SmartEdit in a
step is to resize a residual and add it. Steps of the two take turns, so that both see the same load of the machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tokenizers import Tokenizer
from tokenizers.models import BPE

from rewardedit_jax.bases.base import Base, Dropout, Precomputed
from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix, Moments, RequestStates, RewardStates
from rewardedit_jax.bases.smartedit import SmartEdit, SourceStates
from rewardedit_jax.data.llama_tokenizer import LlamaTokenizer
from rewardedit_jax.diffusion.process import process_from_config
from rewardedit_jax.editing.objective import editing_loss
from rewardedit_jax.models.clip import CLIPTextConfig, CLIPTextModel
from rewardedit_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionModel
from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.interaction import Interaction, InteractionConfig
from rewardedit_jax.models.llava import Llava, LlavaConfig
from rewardedit_jax.models.qformer import QFormer, QFormerConfig
from rewardedit_jax.models.reward_condition import RewardConditionConfig
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.models.vae import AutoencoderConfig, AutoencoderKL
from rewardedit_jax.params import Params, random_params
from rewardedit_jax.shapes.tokenizers import shapes_tokenizer

TEXT, WIDTH, GRID = 77, 768, 16  # context tokens, their width, and the side of the image tower's grid, as published


def small_unet(channels: tuple[int, ...]) -> UNet:
    """Stable Diffusion's U-Net with fewer levels, and the reward modules of the published weights."""
    down = ("CrossAttnDownBlock2D",) * len(channels)
    up = ("CrossAttnUpBlock2D",) * len(channels)
    reward = RewardConditionConfig(layout="released")
    sizes = {"block_out_channels": channels, "down_block_types": down, "up_block_types": up}
    return UNet(UNetConfig(in_channels=8, cross_attention_dim=WIDTH, reward=reward, **sizes))


def bases(unet: UNet) -> dict[str, Base]:
    """Both editors, without the networks whose results a cache holds."""
    # Of what only makes the cache, settings alone: no parameter of it is drawn.
    shared = {
        "unet": unet,
        "vae": AutoencoderKL(AutoencoderConfig()),
        "text_encoder": CLIPTextModel(CLIPTextConfig(hidden_size=WIDTH)),
        "process": process_from_config({"beta_schedule": "scaled_linear"}),
        "tokenizer": shapes_tokenizer(),
    }
    smartedit = SmartEdit(
        **shared,
        vision_encoder=CLIPVisionModel(CLIPVisionConfig(hidden_size=1024, num_attention_heads=16)),
        language_model=Llava(LlavaConfig(text=DecoderConfig(hidden_size=4096, num_attention_heads=32))),
        qformer=QFormer(QFormerConfig()),
        interaction=Interaction(InteractionConfig(residual_size=unet.config.block_out_channels[0])),
        language_tokenizer=LlamaTokenizer(Tokenizer(BPE()), {}),
    )
    return {"Reward-InsPix2Pix": InstructPix2Pix(**shared), "Reward-SmartEdit": smartedit}


def examples(base: Base, batch: int, side: int) -> Precomputed:
    """Random examples as a cache gives them; the same numbers for both editors where both have them."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal((batch, *shape), np.float32))

    moments, latents = Moments(draw(side, side, 4), draw(side, side, 4)), draw(side, side, 4)
    reward = RewardStates(jnp.abs(draw(3)), draw(WIDTH), jnp.ones(batch))
    context, null = draw(TEXT, WIDTH), draw(TEXT, WIDTH)[0]
    if isinstance(base, SmartEdit):
        residual = draw(GRID, GRID, base.unet.config.block_out_channels[0])
        return Precomputed(moments, SourceStates(latents, context, residual), RequestStates(None, reward), null)
    return Precomputed(moments, latents, RequestStates(context, reward), null)


def make_step(base: Base) -> Callable[[Params, Any, Precomputed], tuple[Params, Any, jax.Array]]:
    """One step of AdamW on the U-Net, compiled."""
    optimizer = optax.adamw(5e-5)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(unet: Params, state: Any, batch: Precomputed) -> tuple[Params, Any, jax.Array]:
        def loss(unet: Params) -> jax.Array:
            return editing_loss(base, {"unet": unet}, Dropout(0.05, 0.0), batch, jax.random.key(0)).mean()

        value, grads = jax.value_and_grad(loss)(unet)
        updates, state = optimizer.update(grads, state, unet)
        return optax.apply_updates(unet, updates), state, value

    return step


def measure(unet: UNet, batch: int, side: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, by editor."""
    running = {}
    for name, base in bases(unet).items():
        params = random_params(unet, jax.random.key(0))
        running[name] = make_step(base), [params, optax.adamw(5e-5).init(params)], examples(base, batch, side)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for turn in range(rounds + 1):
        for name, (step, state, batch_of) in running.items():
            begin = time.perf_counter()
            state[0], state[1], _ = jax.block_until_ready(step(*state, batch_of))
            if turn:  # the first compiles
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="steps of each editor (default: %(default)s)")
    a = parser.parse_args()
    seconds = measure(small_unet((160, 320)), batch=2, side=32, rounds=a.rounds)
    for name, found in seconds.items():
        print(f"{name:18} {statistics.median(found):.3f} s per step, {min(found):.3f} to {max(found):.3f}")
    pairs = zip(*seconds.values(), strict=True)
    ratios = sorted(smartedit / plain for plain, smartedit in pairs)
    print(f"ratio of the two   {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}")


if __name__ == "__main__":
    main()
