"""The loop on the shapes world: label, fine-tune on rewards, score, curate, retrain, and compare.

  python launch/loop.py --config configs/reward_ip2p.py:shapes --seeds 3 --workdir runs/loop

Training edits are labelled by the oracle (launch/label.py) and ranked by a scorer (launch/curate.py). Four editors are
trained per seed: on everything, on a random part, on the scorer's top part, and on everything with the labels as
condition. DIR/table.txt compares them on held-out scenes, DIR/grid.png shows their edits. The same command resumes a
stopped run. Fields of the recipe are set for all trainings: --config.steps=300.
"""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

from rewardedit_jax.command_line import complain_clearly, hide_other_packages, local_path, whole_number
from rewardedit_jax.evaluation.experiments.comparison import JobsFailed
from rewardedit_jax.shapes.loop import Loop, StepFailed


def parse() -> Loop:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True, help="recipe of an editor of the shapes world with reward")
    p.add_argument("--scorer", default="shapes_scorer", help="directory or name (default: the one that ships)")
    p.add_argument("--keep", type=float, default=0.4, help="share of the edits to keep (default: %(default)s)")
    p.add_argument("--rule", default="lcb", help="of launch/curate.py (default: %(default)s)")
    at_least_one = partial(whole_number, least=1)
    p.add_argument("--seeds", type=at_least_one, default=1, help="trainings of each arm (default: %(default)s)")
    p.add_argument("--count", type=at_least_one, default=128, help="held-out scenes (default: %(default)s)")
    p.add_argument("--workdir", required=True, type=local_path, help="directory of everything that the loop writes")
    a, overrides = p.parse_known_args()
    settings = a.scorer, a.keep, a.rule, a.seeds, a.count, a.workdir
    command = shlex.join(["python", "launch/loop.py", *sys.argv[1:]])
    return Loop(a.config, tuple(overrides), *settings, Path(__file__).parent, command)


def main() -> None:
    loop = parse()
    hide_other_packages()
    with complain_clearly():
        try:
            written = loop.run()
        except (JobsFailed, StepFailed) as error:
            sys.exit(f"error: {error}")
    print("\nwritten:", *written, sep="\n  ")


if __name__ == "__main__":
    main()
