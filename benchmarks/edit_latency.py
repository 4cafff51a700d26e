"""Time of an edit with the reward: 512 px, 30 steps, three branches of guidance, beside diffusers' pipeline.

  python benchmarks/edit_latency.py          # Stable Diffusion 1.5 in bfloat16, on an accelerator
  python benchmarks/edit_latency.py --small  # widths 320 and 640, 256 px and 4 steps in float32, on a CPU

From an image in memory to an image in memory, with random weights. The pipeline has the same networks and reward
modules in the same type. Its autoencoder is in that type too, while the one here stays in float32. Its U-Net runs
eagerly and compiled. The floor is the arithmetic of all matrix products and convolutions of autoencoder and U-Net.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from networks import TOKENS, draw_editor, make_base
from PIL import Image
from reporting import print_rows
from timing import Row, Variant, floor_seconds, guarded, import_peer, matmul_flops, take_turns, timed_rows

from rewardedit_jax import Reward
from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.params import abstract_params
from rewardedit_jax.startup import start_quickly

_INSTRUCTION = "make the red circle blue"


class Setting(NamedTuple):
    dtype: str
    side: int  # pixels
    steps: int
    rounds: int
    batches: tuple[int, ...]


SETTINGS = {
    "tiny": Setting("float32", 32, 2, 2, (1,)),
    "small": Setting("float32", 256, 4, 5, (1,)),
    "full": Setting("bfloat16", 512, 30, 7, (1, 8)),
}


def make_editor(size: str) -> Editor:
    base = make_base(size, SETTINGS[size].dtype)
    return Editor(base, draw_editor(base))


def edit(editor: Editor, setting: Setting, batch: int) -> Variant:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, setting.side, setting.side, 3), np.uint8)
    settings = {"steps": setting.steps, "reward": Reward(5, 4, 3), "resolution": None, "output": "array"}
    return lambda: editor.edit(pixels, [_INSTRUCTION] * batch, batch_size=batch, **settings)


def edit_flops(base: InstructPix2Pix, setting: Setting, batch: int) -> int:
    """Of the autoencoder once each way, and of the U-Net with three branches in every step."""
    params = {name: abstract_params(getattr(base, name)) for name in ("unet", "vae")}
    height, width, channels = base.latent_shape(setting.side, setting.side)
    zeros = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    images, latents = zeros(batch, setting.side, setting.side, 3), zeros(batch, height, width, channels)
    rows, context = 3 * batch, base.unet.config.cross_attention_dim
    unet = lambda p, *inputs: base.unet.apply({"params": p["unet"]}, *inputs)  # noqa: E731
    inputs = zeros(rows, height, width, 2 * channels), zeros(rows), zeros(rows, TOKENS, context)
    step = matmul_flops(unet, params, *inputs, zeros(rows, 3), zeros(rows, context))
    return setting.steps * step + matmul_flops(base.encode, params, images) + matmul_flops(base.decode, params, latents)


def pipeline_edit(peer: Any, base: InstructPix2Pix, setting: Setting) -> tuple[Callable[[], Any], Callable[[], None]]:
    """(an edit, what compiles the U-Net of those that follow)."""
    pipeline = peer.make_pipeline(base, setting.dtype)
    reward = np.tile(np.float32([5, 4, 3]), (3, 1)), np.ones((3, base.unet.config.cross_attention_dim), np.float32)
    peer.set_reward(pipeline.unet, *reward)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (setting.side, setting.side, 3), np.uint8))
    scales = {"guidance_scale": 7.5, "image_guidance_scale": 1.5}

    def run() -> Any:
        return pipeline(_INSTRUCTION, image, num_inference_steps=setting.steps, output_type="np", **scales).images

    def compile_unet() -> None:
        pipeline.unet.compile()

    return run, compile_unet


def rows(size: str) -> Iterator[Row]:
    setting, editor = SETTINGS[size], make_editor(size)
    for batch in setting.batches:
        run = edit(editor, setting, batch)
        begin = time.perf_counter()
        run()
        case = f"edit, {setting.side} px, {setting.steps} steps, batch {batch}, {setting.dtype}"
        yield Row(f"{case}: first", time.perf_counter() - begin, "s", note="compilation included")
        floor = floor_seconds(edit_flops(editor.base, setting, batch), 0, setting.dtype)
        yield from timed_rows(case, take_turns({"rewardedit_jax": run}, setting.rounds), floor)
        if batch == 1:
            yield from guarded(_beside(case, editor.base, setting, run, floor, size != "tiny"), f"{case}: diffusers")


def _beside(
    case: str, base: InstructPix2Pix, setting: Setting, ours: Variant, floor: float, compiled: bool
) -> Iterator[Row]:
    """Rows of the pipeline, as it is and with its U-Net compiled, in rounds with this package."""
    peer, reason = import_peer("diffusers", "transformers")
    if peer is None:
        yield Row(f"{case}: diffusers", note=reason)
        return
    with peer.freed():
        theirs, compile_unet = pipeline_edit(peer, base, setting)
        for name in ("diffusers, eager", "diffusers, compiled")[: 1 + compiled]:
            if name.endswith("compiled"):
                compile_unet()
            seconds = take_turns({"rewardedit_jax": ours, name: theirs}, setting.rounds)
            yield from islice(timed_rows(case, seconds, floor), 1, None)
        del theirs, compile_unet


def main() -> None:
    start_quickly()
    print_rows(__doc__, rows)


if __name__ == "__main__":
    main()
