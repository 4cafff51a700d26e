"""Convert published weights of another project to a model directory of this one.

  python launch/convert.py smartedit --smartedit TencentARC/SmartEdit-7B --llava DIR --out models/smartedit-7b
  python launch/convert.py smartedit --smartedit DIR --llava DIR --vision DIR --base DIR --out models/smartedit-13b

Only weights that are spread over other files need this: pipelines of diffusers and scorers of transformers are read as
they are published. It takes little memory, and neither PyTorch nor a GPU. `convert.py NAME --help` says which files are
needed and where they are published.
"""

import argparse
import os

from rewardedit_jax.command_line import complain_clearly, hide_other_packages
from rewardedit_jax.weights.convert_command import add_smartedit


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    conversions = p.add_subparsers(dest="name", metavar="NAME", required=True, title="conversions")
    add_smartedit(conversions)
    return p.parse_args()


def main() -> None:
    a = parse()
    os.environ["JAX_PLATFORMS"] = "cpu"  # shapes are all it is asked for, and it would reserve a GPU's memory
    hide_other_packages()
    with complain_clearly():
        print(a.run(a))


if __name__ == "__main__":
    main()
