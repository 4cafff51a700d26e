"""Score edits: how well each follows its instruction, its quality, and both together.

  python launch/score.py --model DIR --source a.png --edited b.png c.png --instruction "make it snow" --json out.json
  python launch/score.py --model DIR --source sources/ --edited edits/ --instruction "make it snow" --output out.jsonl
  python launch/score.py --model DIR --list edits.jsonl --output out.jsonl

A line of a list: {"source": "a.png", "edited": "b.png", "instruction": "make it snow"}, paths relative to it; "edited"
may be a list. Of two folders, edits meet the source of their name. Scores have no unit: higher is better, ± is how sure
the scorer is. "improvement" is the distance to leaving the source as it is; "calibrated" the share of the scorer's
reference edits that it beats. A stopped run of --output goes on with the same command. Edits that cannot be scored are
listed at the end, and are in the files with their error.
"""

import argparse
import sys
from pathlib import Path

from absl import logging

from rewardedit_jax.command_line import complain_clearly, png_file
from rewardedit_jax.evaluation.ranking import report_scores
from rewardedit_jax.scoring.files import listed_jobs, outcomes, plan_jobs, run_jobs
from rewardedit_jax.scoring.scorer import Scorer


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="directory, training workdir or hub id")
    p.add_argument("--base", help="where the tokenizer is, if the model has none: published checkpoints")
    p.add_argument("--source", type=Path, help="an image, or a folder")
    p.add_argument("--edited", type=Path, nargs="+", help="edits of that image, or a folder")
    p.add_argument("--list", type=Path, help="a .jsonl instead of --source and --edited")
    p.add_argument("--instruction", help="what was asked for")
    p.add_argument("--json", type=Path, help="all scores as one JSON list, written at the end")
    p.add_argument("--png", type=png_file, help="the pictures, the best edits first, with their scores")
    p.add_argument("--output", type=Path, help="a .jsonl, written line by line; goes on where it stopped")
    p.add_argument("--improvement", action=argparse.BooleanOptionalAction, default=True,
                   help="score the unchanged sources too: one more edit for each (default: yes)")  # fmt: skip
    p.add_argument("--batch-size", type=int, default=8, help="edits at a time (default: %(default)s)")
    p.add_argument("--tensor", type=int, default=1, metavar="N",
                   help="devices that share one copy of a model too large for one (default: %(default)s)")  # fmt: skip
    p.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16, on a CPU float32")
    a = p.parse_args()
    if (a.list is None) == (a.source is None or a.edited is None):
        p.error("give --source and --edited, or --list.")
    if a.output and (a.json or a.png):
        p.error("--output goes without --json and --png: it is the file of the scores.")
    return a


def main() -> None:
    a = parse()
    logging.set_verbosity(logging.INFO)
    with complain_clearly():
        jobs = listed_jobs(a.list, a.instruction) if a.list else plan_jobs(a.source, a.edited, a.instruction)
        scorer = Scorer.load(a.model, a.base, a.dtype, a.tensor)
        settings = {"batch_size": a.batch_size, "improvement": a.improvement}
        if a.output:
            faults = run_jobs(scorer, jobs, a.output, **settings)
        else:
            faults = report_scores(list(outcomes(scorer, jobs, **settings)), a.json, a.png)
    if faults:
        sys.exit("\n".join([f"error: {len(faults)} of {len(jobs)} edits were not scored:", *faults]))


if __name__ == "__main__":
    main()
