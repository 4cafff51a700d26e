"""Train the arms of an experiment side by side and compare them: a table, for editors also pictures and a curve.

  python launch/compare.py --config configs/reward_ip2p.py:shapes --arms "without reward" reward --workdir runs/demo
  python launch/compare.py --config configs/reward_ip2p.py:shapes --seeds 3 --workdir runs/comparison   # all arms
  python launch/compare.py --config configs/edit_reward.py:shapes --seeds 3 --workdir runs/scorers      # scorers

Each training takes one core (on an accelerator, one after the other). The same command resumes a stopped comparison
and repeats nothing that is done. Fields of the recipe are set for all arms: --config.steps=300.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from rewardedit_jax.command_line import complain_clearly, local_path, whole_number
from rewardedit_jax.shapes.arms import EDITORS, SCORERS
from rewardedit_jax.shapes.experiment import Comparison, JobsFailed, compare


def parse() -> Comparison:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True, help="recipe of the shapes world, of an editor or a scorer")
    p.add_argument("--arms", nargs="+", default=(), metavar="ARM",
                   help=f"what to train (default: all). Editors: {', '.join(EDITORS.arms)}. "
                   f"Scorers: {', '.join(SCORERS.arms)}; all others start from ratings")  # fmt: skip
    at_least_one = partial(whole_number, least=1)
    p.add_argument("--seeds", type=at_least_one, default=1, help="trainings of each arm (default: %(default)s)")
    p.add_argument("--count", type=at_least_one, default=256,
                   help="held-out scenes, or groups of edits, to evaluate on (default: %(default)s)")  # fmt: skip
    p.add_argument("--workdir", required=True, type=local_path, help="directory of trainings, table and pictures")
    a, overrides = p.parse_known_args()
    return Comparison(
        a.config, tuple(overrides), tuple(a.arms), a.seeds, a.count, a.workdir, launch=Path(__file__).parent
    )


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
