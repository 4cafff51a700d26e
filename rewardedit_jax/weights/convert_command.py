"""The conversions of `launch/convert.py`: their arguments and help, and the line that each prints at its end."""

import argparse
import textwrap
from pathlib import Path

from tqdm import tqdm

from rewardedit_jax.command_line import local_path
from rewardedit_jax.weights.smartedit_sources import WHERE

_SMARTEDIT = """Convert the published weights of SmartEdit to a model directory.

  python launch/convert.py smartedit --smartedit SmartEdit-7B --llava LLaVA-7B-v1-1 --out models/smartedit

Four published models are joined, each a local directory or an id on the Hugging Face hub:

{parts}

The directory has the folders unet, vae, text_encoder, tokenizer, scheduler, vision_encoder, language_model,
language_tokenizer, qformer and interaction, with weights in safetensors. Tensors are read and written one by one, so
that 13B takes less than 3 GB of memory. All files are checked before the first is written, and a model that --out holds
is replaced when the new one is complete.
"""
_PARTS = {
    "smartedit": "SmartEdit's own weights: language model with LoRA, Q-Former, interaction module, U-Net.",
    "llava": "LLaVA 1.1 of the same size, 7B or 13B, as one model (not its delta, not LLaVA 1.5). It has the rows of "
    "the vocabulary that SmartEdit's files lack, and LLaMA's tokenizer.model.",
    "vision": "the image tower, CLIP ViT-L/14 for 224 px.",
    "base": "Stable Diffusion 1.5: VAE, text encoder, tokenizer, noise schedule, and settings of the U-Net.",
}
_VISION, _BASE = "openai/clip-vit-large-patch14", "stable-diffusion-v1-5/stable-diffusion-v1-5"


def add_smartedit(conversions: argparse._SubParsersAction) -> None:
    """Add the conversion of SmartEdit."""
    parts = "\n".join(_described(name, f"{text} Published: {WHERE[name]}.") for name, text in _PARTS.items())
    layout, text = argparse.RawDescriptionHelpFormatter, _SMARTEDIT.format(parts=parts)
    p = conversions.add_parser("smartedit", description=text, formatter_class=layout, help="SmartEdit, 7B or 13B")
    model = {"metavar": "DIR_OR_ID"}
    p.add_argument("--smartedit", required=True, **model)
    p.add_argument("--llava", required=True, **model)
    p.add_argument("--vision", default=_VISION, **model, help="default: %(default)s")
    p.add_argument("--base", default=_BASE, **model, help="default: %(default)s")
    p.add_argument("--out", required=True, type=local_path, metavar="DIR", help="the directory to write")
    lora = "add the low-rank matrices of the language model to its weights, or keep both, to train them further"
    p.add_argument("--lora", choices=("merge", "keep"), default="merge", help=f"{lora} (default: merge)")
    dtype = "of all weights of the language model (default: the widest type that each is made from: nothing is rounded)"
    p.add_argument("--dtype", choices=("bfloat16", "float32"), help=dtype)
    p.set_defaults(run=_convert_smartedit)


_LORA = """Merge low-rank differences (LoRA) into the weights of a model, or keep them beside, to train them further.

  python launch/convert.py lora --model models/ip2p --lora pytorch_lora_weights.safetensors --out models/adapted
  python launch/convert.py lora --model runs/lora --out models/merged            # of a training: its own differences

The file is in the names of peft and diffusers (unet.….to_q.lora_A.weight), or of kohya, where they end in
lora_down.weight, lora_up.weight and alpha; layers may have ranks of their own. All layers have to be dense ones of the
model, of the same sizes: a file for another network is refused before anything is written. Differences of convolutions
are refused too.
"""
_EXPORT = """Write the low-rank differences (LoRA) of a model as one file for other software.

  python launch/convert.py lora-export --model runs/lora --format peft --out pytorch_lora_weights.safetensors
"""


def add_lora(conversions: argparse._SubParsersAction) -> None:
    """Add reading and writing of LoRA."""
    layout = argparse.RawDescriptionHelpFormatter
    model = {"required": True, "metavar": "DIR_OR_ID", "help": "a model directory, a training workdir or a hub id"}
    p = conversions.add_parser("lora", description=_LORA, formatter_class=layout, help="LoRA of a file → into a model")
    p.add_argument("--model", **model)
    p.add_argument("--lora", type=local_path, metavar="FILE", help="default: the differences that the model has")
    p.add_argument("--out", required=True, type=local_path, metavar="DIR", help="the directory to write")
    p.add_argument("--keep", action="store_true", help="write them beside the weights, in place of adding them")
    dtype = "of the merged weights (default: the widest type that each is made from: nothing is rounded)"
    p.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help=dtype)
    p.set_defaults(run=_convert_lora)
    p = conversions.add_parser(
        "lora-export", description=_EXPORT, formatter_class=layout, help="LoRA of a model → a file"
    )
    p.add_argument("--model", **model)
    p.add_argument("--format", required=True, choices=("peft", "kohya"), help="whose names of tensors")
    p.add_argument("--out", required=True, type=local_path, metavar="FILE", help="a .safetensors file")
    p.set_defaults(run=_export_lora)


def _convert_lora(a: argparse.Namespace) -> str:
    from rewardedit_jax.weights.adapter_conversion import convert_lora

    if a.lora is None and a.keep:
        raise ValueError("--keep: expected --lora FILE too, as the model's own differences are kept already.")
    return _report(a.out, *convert_lora(a.model, a.lora, a.out, a.keep, a.dtype))


def _export_lora(a: argparse.Namespace) -> str:
    from rewardedit_jax.weights.adapter_export import export_lora

    return _report(a.out, *export_lora(a.model, a.format, a.out))


def _described(name: str, text: str) -> str:
    lines = {"initial_indent": f"  --{name:11}", "subsequent_indent": " " * 15}
    return textwrap.fill(text, 118, **lines, break_on_hyphens=False)


def _convert_smartedit(a: argparse.Namespace) -> str:
    # Imported here, with JAX, which --help does without.
    from rewardedit_jax.weights.smartedit_conversion import convert_smartedit

    keep_lora = a.lora == "keep"
    return _report(a.out, *convert_smartedit(a.smartedit, a.llava, a.vision, a.base, a.out, keep_lora, a.dtype))


def _report(out: Path, tensors: int, size: int, peak: int | None) -> str:
    memory = "" if peak is None else f"; peak memory {tqdm.format_sizeof(peak)}B"
    return f"written: {out}, {tensors:,} tensors, {tqdm.format_sizeof(size)}B{memory}"
