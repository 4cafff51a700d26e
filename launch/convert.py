"""Convert weights: published ones of another project to a model directory, and LoRA from and to files.

  python launch/convert.py smartedit --smartedit TencentARC/SmartEdit-7B --llava DIR --out models/smartedit-7b
  python launch/convert.py smartedit --smartedit DIR --llava DIR --vision DIR --base DIR --out models/smartedit-13b
  python launch/convert.py lora --model DIR --lora pytorch_lora_weights.safetensors --out models/adapted
  python launch/convert.py lora-export --model runs/lora --format kohya --out lora.safetensors

Pipelines of diffusers and scorers of transformers need no conversion: they are read as they are published. It takes
little memory, and neither PyTorch nor a GPU. `convert.py NAME --help` says which files are needed and where published
ones are.
"""

import argparse
import os

from rewardedit_jax.command_line import complain_clearly, hide_other_packages
from rewardedit_jax.weights.convert_command import add_lora, add_smartedit


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    conversions = p.add_subparsers(dest="name", metavar="NAME", required=True, title="conversions")
    add_smartedit(conversions)
    add_lora(conversions)
    return p.parse_args()


def main() -> None:
    a = parse()
    os.environ["JAX_PLATFORMS"] = "cpu"  # shapes are all it is asked for, and it would reserve a GPU's memory
    hide_other_packages()
    with complain_clearly():
        print(a.run(a))


if __name__ == "__main__":
    main()
