"""Train arms of one recipe side by side and compare what they learnt: one table, one picture grid.

  python launch/compare.py --config configs/reward_ip2p.py:shapes --arms "without reward" reward --workdir runs/demo
  python launch/compare.py --config configs/reward_ip2p.py:shapes --seeds 3 --workdir runs/comparison   # all arms

Each training takes one core (on an accelerator, one after the other). A stopped comparison goes on with the same
command; what is there is not done again. Fields of the recipe are set for all arms: --config.steps=300.
"""

import argparse
import sys
from pathlib import Path

from rewardedit_jax.command_line import complain_clearly
from rewardedit_jax.shapes.arms import ARMS
from rewardedit_jax.shapes.comparison import Comparison, JobsFailed, compare


def parse() -> Comparison:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True, help="recipe of the shapes world")
    p.add_argument("--arms", nargs="+", choices=ARMS, default=tuple(ARMS), metavar="ARM",
                   help=f"what to train, of: {', '.join(ARMS)} (default: all)")  # fmt: skip
    p.add_argument("--seeds", type=int, default=1, help="trainings of each arm (default: %(default)s)")
    p.add_argument("--count", type=int, default=256, help="held-out scenes to judge (default: %(default)s)")
    p.add_argument("--workdir", required=True, type=Path, help="directory of trainings, table and pictures")
    a, overrides = p.parse_known_args()
    launch = Path(__file__).parent
    return Comparison(a.config, tuple(overrides), tuple(a.arms), a.seeds, a.count, a.workdir, launch)


def main() -> None:
    comparison = parse()
    with complain_clearly():
        try:
            written = compare(comparison)
        except JobsFailed as error:
            sys.exit(f"error: {error}")
    print("\nwritten:", *written, sep="\n  ")


if __name__ == "__main__":
    main()
