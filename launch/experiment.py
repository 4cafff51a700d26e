"""Run an experiment of one of the two papers: train what is missing, evaluate, and write its table.

  python launch/experiment.py table1 --data shapes --seeds 3 --out runs/comparison
  python launch/experiment.py table4 --data shapes --seeds 3 --out runs/table4 --config.reward.layout=paper
  python launch/experiment.py table1 --data DIR --benchmark real_edit --benchmark-data DIR --judge replay --store FILE \
    --out runs/mine

DIR gets table.txt, table.md, table.json and table.png (extra `plots`); most experiments also draw pictures. Each
training takes one core (on an accelerator, one after the other). The same command resumes a stopped experiment and
repeats nothing that is done. Nor does it repeat a training that a folder beside DIR has finished, if the arm has the
same name and all settings are equal. Fields of the recipe are set for all arms, --config.steps=300; an arm that is
defined by another value keeps it.
"""

import argparse
import shlex
import sys
from pathlib import Path

from rewardedit_jax.command_line import complain_clearly, hide_other_packages
from rewardedit_jax.evaluation.experiments.comparison import JobsFailed, compare
from rewardedit_jax.evaluation.experiments.experiment import list_experiments
from rewardedit_jax.shapes.experiment_command import add_experiment_arguments, described_comparison
from rewardedit_jax.shapes.experiments import EXPERIMENTS


def main() -> None:
    names, layout = f"experiments:\n{list_experiments(EXPERIMENTS)}", argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, epilog=names, formatter_class=layout)
    add_experiment_arguments(p)
    a, overrides = p.parse_known_args()
    command = shlex.join(["python", "launch/experiment.py", *sys.argv[1:]])
    hide_other_packages()
    with complain_clearly():
        try:
            written = compare(described_comparison(a, overrides, Path(__file__).parent, command))
        except JobsFailed as error:
            sys.exit(f"error: {error}")
    print("\nwritten:", *written, sep="\n  ")


if __name__ == "__main__":
    main()
