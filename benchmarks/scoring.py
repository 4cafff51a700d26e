"""Speed of scoring: both prompts in one packed pass, `score_arrays`, a pass per prompt, and that in PyTorch.

  python benchmarks/scoring.py                 # a model of 38 M parameters, a minute on two cores
  python benchmarks/scoring.py --size 7b       # Qwen2.5-VL-7B's sizes, for an accelerator
  python benchmarks/scoring.py --candidates 4  # edits of one source, whose features they share

No files are read: weights, pictures and tokens are random, with the sizes of published EditReward (448×448 pixels,
prompts of about 950 tokens, the first 550 of them shared). All variants get equal inputs, and their outputs are
compared. The packed pass reads its pictures from host memory, as `Scorer` does; the others have them on the device.
They take turns, so that a busy machine slows down all of them. The PyTorch variant needs PyTorch for the
device that JAX uses; the extra `oracle` installs it for CPUs.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from networks import draw
from timing import Row, floor_seconds, import_peer, matmul_flops, take_turns, timed_rows, utilisation

from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig, PackedPrompts
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.models.vision_plan import VisionPlan, plan_images
from rewardedit_jax.params import Params, abstract_params
from rewardedit_jax.scoring.arrays import score_arrays
from rewardedit_jax.scoring.images import PATCH, cut_patches, normalise_patches, to_patches
from rewardedit_jax.scoring.packing import pack_row, stack_rows
from rewardedit_jax.weights.pretrained import save_pretrained

Variant = Callable[[], np.ndarray]  # → float32[edits, prompts, 2]: (mean, log σ)

_WORDS = 1000  # size of a random vocabulary; the last two ids are the image and the reward token
_GRID, _IMAGE_TOKENS = (1, 32, 32), 256
_SYSTEM, _SHARED, _RESTS = 20, 20, (400, 370)  # tokens before the images, after them, and of each prompt alone
_SMALL = DecoderConfig(
    vocab_size=_WORDS, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
    num_key_value_heads=2, mrope_section=(8, 12, 12),
)  # fmt: skip
_3B = DecoderConfig(
    vocab_size=_WORDS, hidden_size=2048, intermediate_size=11_008, num_hidden_layers=36, num_attention_heads=16,
    num_key_value_heads=2,
)  # fmt: skip
_SMALL_VISION = QwenVisionConfig(
    depth=8, hidden_size=320, num_heads=4, intermediate_size=856, out_hidden_size=512, fullatt_block_indexes=(3, 7)
)
_TINY = DecoderConfig(
    vocab_size=_WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, mrope_section=(2, 1, 1),
)  # fmt: skip
_TINY_VISION = QwenVisionConfig(
    depth=1, hidden_size=16, num_heads=2, intermediate_size=24, out_hidden_size=32, fullatt_block_indexes=(0,)
)
SIZES = {
    "tiny": (_TINY, _TINY_VISION),
    "small": (_SMALL, _SMALL_VISION),
    "3b": (_3B, QwenVisionConfig(out_hidden_size=2048)),
    "7b": (DecoderConfig(vocab_size=_WORDS), QwenVisionConfig()),
}


@dataclass(frozen=True, eq=False)
class Inputs:
    """Edits of several sources. The picture of a source comes before those of its edits."""

    ids: list[list[np.ndarray]]  # token ids by edit and prompt
    images: np.ndarray  # uint8[pictures, 448, 448, 3]
    pictures: np.ndarray  # int[edits, 2]: indices of the source and the edited picture

    def patches_of_edits(self) -> np.ndarray:
        """float32[edits * 2 * patches, 1176]: of the pictures of all edits, as EditReward's code has them."""
        return to_patches(self.images[self.pictures.ravel()]).reshape(-1, 1176)


def make_inputs(edits: int, candidates: int) -> Inputs:
    rng = np.random.default_rng(0)
    groups = -(-edits // candidates)
    source = np.repeat(np.arange(groups), candidates)[:edits] * (candidates + 1)
    pictures = np.stack([source, source + 1 + np.arange(edits) % candidates], axis=1)
    image = np.full(_IMAGE_TOKENS, _WORDS - 2)
    ids = []
    for _ in range(edits):
        system, between, shared, *rests = (rng.integers(0, _WORDS - 2, n) for n in (_SYSTEM, 2, _SHARED, *_RESTS))
        rests[1][0] = (rests[0][0] + 1) % (_WORDS - 2)  # the prompts differ from here on
        prefix = [system, image, between, image, shared]
        ids.append([np.concatenate([*prefix, rest, [_WORDS - 1]]).astype(np.int32) for rest in rests])
    images = rng.integers(0, 256, (groups * (candidates + 1), _GRID[1] * PATCH, _GRID[2] * PATCH, 3), np.uint8)
    return Inputs(ids, images, pictures)


def random_scorer(size: str, dtype: Any) -> tuple[EditReward, Params]:
    text, vision = SIZES[size]
    config = EditRewardConfig(text=text, vision=vision, image_token_id=_WORDS - 2)
    module = EditReward(config, dtype=dtype, param_dtype=dtype)
    return module, draw(abstract_params(module))


def packed_arguments(module: EditReward, inputs: Inputs) -> tuple[np.ndarray, VisionPlan, PackedPrompts]:
    """What `packed_outputs` reads: both prompts in one row, and each picture once."""
    used, number = np.unique(inputs.pictures, return_inverse=True)
    plan = plan_images(np.array([_GRID] * len(used)), module.config.vision)
    return cut_patches(inputs.images[used]), plan, packed_rows(inputs, number.reshape(inputs.pictures.shape))


def packed_rows(inputs: Inputs, number: np.ndarray) -> PackedPrompts:
    """The rows of all edits, where `number` counts the pictures of each among those that are encoded."""
    positions = np.flatnonzero(inputs.ids[0][0] == _WORDS - 2).astype(np.int32)
    slots = (number[..., None] * _IMAGE_TOKENS + np.arange(_IMAGE_TOKENS)).astype(np.int32)
    rows = [pack_row(ids, positions, at.ravel()) for ids, at in zip(inputs.ids, slots, strict=True)]
    return stack_rows(rows, len(rows))


def packed_outputs(
    module: EditReward, params: Params, patches: jax.Array, plan: VisionPlan, prompts: PackedPrompts
) -> jax.Array:
    return module.apply({"params": params}, normalise_patches(patches), plan, prompts, method="score")


def packed_pass(module: EditReward, params: Params, inputs: Inputs) -> Variant:
    arguments, run = packed_arguments(module, inputs), jax.jit(partial(packed_outputs, module))
    return lambda: np.asarray(run(params, *jax.device_put(arguments)))


def array_pass(module: EditReward, params: Params, inputs: Inputs) -> Variant:
    """`score_arrays`, for which every source has the same number of edits."""
    sources = inputs.images[np.unique(inputs.pictures[:, 0])]
    rows = packed_rows(inputs, np.broadcast_to(np.arange(2), inputs.pictures.shape))
    arguments = jax.device_put((sources, inputs.images[inputs.pictures[:, 1]], rows))
    run = jax.jit(partial(score_arrays, module))
    return lambda: np.asarray(run(params, *arguments))


def two_passes(module: EditReward, params: Params, inputs: Inputs) -> Variant:
    """A pass per prompt, which encodes both pictures again, as in EditReward's code."""
    grids = np.array([_GRID] * inputs.pictures.size)
    pixels = jax.device_put(inputs.patches_of_edits())

    def one(head: int) -> Callable[[], jax.Array]:
        ids = jax.device_put(np.stack([prompts[head] for prompts in inputs.ids]))
        run = jax.jit(lambda p, i, x: module.apply({"params": p}, i, jnp.ones_like(i), x, grids, head=head).outputs)
        return lambda: run(params, ids, pixels)

    passes = [one(head) for head in (0, 1)]
    return lambda: np.stack([np.asarray(run()) for run in passes], axis=1)


def torch_passes(module: EditReward, params: Params, inputs: Inputs, copied: bool = True) -> Variant | None:
    """`two_passes` in transformers, with plain positions; None without PyTorch for the device that JAX uses.

    Args:
      copied: with these parameters, through a file. False: with others of the same type, as for 15 GB on a GPU.
    """
    if import_peer("transformers")[0] is None:
        return None
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    model = (_copied(module, params) if copied else _drawn(module, device)).eval().to(device)
    pixels = torch.tensor(inputs.patches_of_edits(), device=device)
    grids = torch.tensor([_GRID] * inputs.pictures.size, device=device)

    def one(head: int) -> np.ndarray:
        ids = torch.tensor(np.stack([prompts[head] for prompts in inputs.ids]), device=device)
        positions = torch.arange(ids.shape[1], device=device).expand(3, *ids.shape)
        types = (ids == _WORDS - 2).int()
        with torch.inference_mode():
            found = model(
                ids, pixel_values=pixels, image_grid_thw=grids, position_ids=positions, mm_token_type_ids=types
            )
        return found.last_hidden_state[:, -1].float().cpu().numpy()

    heads = jax.jit(lambda states: module.apply({"params": params}, states, method=lambda m, s: m.heads(s)))
    return lambda: np.asarray(heads(jnp.asarray(np.stack([one(head) for head in (0, 1)], axis=1))))


def _copied(module: EditReward, params: Params) -> Any:
    """transformers' model without its output layer, with the given parameters."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    bare = module.clone(config=replace(module.config, heads=None))
    with tempfile.TemporaryDirectory() as directory:
        save_pretrained(bare, {name: tree for name, tree in params.items() if name != "heads"}, directory)
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(directory).model


def _drawn(module: EditReward, device: str) -> Any:
    """The same model with parameters that PyTorch draws on the device."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

    with torch.device(device):
        config = Qwen2_5_VLConfig.from_dict(module.config.to_hf())
        return Qwen2_5_VLModel._from_config(config, dtype=getattr(torch, jnp.dtype(module.dtype).name))


_OURS = {"one packed pass": packed_pass, "two passes": two_passes}


def measure(variants: dict[str, Variant], repetitions: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of each variant in each round, and the largest difference of their outputs."""
    results = [run() for run in variants.values()]
    difference = max(float(np.abs(result - results[0]).max()) for result in results)
    return take_turns(variants, repetitions), difference


def rows(size: str) -> Iterator[Row]:
    """Of `device.py`, whose full size is 7B's. There PyTorch has other weights: small sizes show that it agrees."""
    name, edits, dtype, repetitions = ("7b", 8, "bfloat16", 5) if size == "full" else (size, 2, "float32", 2)
    (module, params), inputs = random_scorer(name, dtype), make_inputs(edits, 1)
    flops = matmul_flops(partial(packed_outputs, module), params, *packed_arguments(module, inputs))
    case, floor = f"{edits} edits, 448 px, {name}, {dtype}", floor_seconds(flops, 0, dtype)
    variants: dict[str, Variant] = {}
    makers = {**_OURS, "two passes, PyTorch": partial(torch_passes, copied=size != "full")}
    for title, make in makers.items():  # one after the other: what takes longest is to compile them
        if not (run := make(module, params, inputs)):
            yield Row(f"{case}: {title}", note=import_peer("transformers")[1])
            continue
        variants[title] = run
        seconds, difference = measure(variants, repetitions)
        row = list(timed_rows(case, seconds, floor))[-1]
        compared = {} if title not in _OURS and size == "full" else {"largest difference": difference}
        more = {"edits/s": 1e3 * edits / row.value, **utilisation(flops, row.value / 1e3), **compared}
        yield replace(row, more=more)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", choices=SIZES, default="small", help="size of the model (default: %(default)s)")
    p.add_argument("--edits", type=int, default=2, help="edits in a batch (default: %(default)s)")
    p.add_argument("--candidates", type=int, default=1, help="edits per source (default: %(default)s)")
    p.add_argument("--repetitions", type=int, default=5, help="rounds of all variants (default: %(default)s)")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    a = p.parse_args()
    scorer, inputs = random_scorer(a.size, a.dtype), make_inputs(a.edits, a.candidates)
    makers = {**_OURS, "score_arrays": array_pass, "two passes, PyTorch": torch_passes}
    if a.edits > a.candidates and a.edits % a.candidates:  # the last source has fewer edits than the others
        del makers["score_arrays"]
    variants = {name: run for name, make in makers.items() if (run := make(*scorer, inputs))}
    seconds, difference = measure(variants, a.repetitions)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(scorer[1]))
    print(f"{parameters / 1e6:.0f} M parameters, {a.dtype}, {jax.devices()[0].device_kind}; {a.edits} edits a batch")
    first = np.array(next(iter(seconds.values())))
    for name, taken in seconds.items():
        times = f"{a.edits / np.median(taken):7.3f} edits/s (best {a.edits / min(taken):.3f})"
        print(f"{name:20} {np.median(np.array(taken) / first):5.2f} × the time   {times}")
    print(f"largest difference of their outputs: {difference:.1e}")


if __name__ == "__main__":
    main()
