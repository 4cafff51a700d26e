"""Score edits: how well each follows its instruction, its quality, and both together.

  python launch/score.py --model DIR --source a.png --edited b.png c.png --instruction "make it snow" --json out.json
  python launch/score.py --model DIR --source sources/ --edited edits/ --instruction "make it snow" --output out.jsonl
  python launch/score.py --model DIR --list edits.jsonl --output out.jsonl

A line of a list: {"source": "a.png", "edited": "b.png", "instruction": "make it snow"}, paths relative to it; "edited"
may be a list. Scores have no unit: higher is better, ± is how sure the scorer is. "improvement" (with --improvement)
is the distance to leaving the source as it is; "calibrated" the share of the scorer's reference edits that it beats.
A stopped run of --output goes on with the same command; edits that cannot be scored are written with their error.
"""

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

from absl import logging

from rewardedit_jax.command_line import complain_clearly
from rewardedit_jax.evaluation.tables import aligned
from rewardedit_jax.scoring.edit_score import EditScore
from rewardedit_jax.scoring.jobs import ScoreJob, listed_jobs, plan_jobs, run_jobs
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
    p.add_argument("--output", type=Path, help="a .jsonl, written line by line; goes on where it stopped")
    p.add_argument("--improvement", action="store_true", help="score the unchanged sources too")
    p.add_argument("--batch-size", type=int, default=8, help="edits at a time (default: %(default)s)")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16, on a CPU float32")
    a = p.parse_args()
    if (a.list is None) == (a.source is None or a.edited is None):
        p.error("give --source and --edited, or --list.")
    return a


def main() -> None:
    a = parse()
    logging.set_verbosity(logging.INFO)
    faults = []
    with complain_clearly():
        jobs = listed_jobs(a.list, a.instruction) if a.list else plan_jobs(a.source, a.edited, a.instruction)
        scorer = Scorer.load(a.model, a.base, a.dtype)
        settings = {"batch_size": a.batch_size, "improvement": a.improvement}
        if a.output:
            faults = run_jobs(scorer, jobs, a.output, **settings)
        else:
            columns = [[getattr(job, name) for job in jobs] for name in ("source", "edited", "instruction")]
            report(jobs, scorer.score(*columns, **settings), a.json)
    if faults:
        sys.exit("\n".join([f"error: {len(faults)} of {len(jobs)} edits were not scored:", *faults]))


def report(jobs: list[ScoreJob], scores: list[EditScore], file: Path | None) -> None:
    """A table, the best first, and the JSON file."""
    if file:
        told = [{**vars(job), **score.to_json()} for job, score in zip(jobs, scores, strict=True)]
        file.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")
    ranked = sorted(zip(jobs, scores, strict=True), key=lambda pair: -pair[1].overall.mean)
    better = [f"{Scorer.prefer(a, b):.0%}" for (_, a), (_, b) in pairwise(ranked)] + [""]
    rows = [[job.edited, *_cells(score), won] for (job, score), won in zip(ranked, better, strict=True)]
    heading = ["edited", "following", "quality", "overall", "improvement", "calibrated", "beats the next"]
    print(*aligned(heading, rows), sep="\n")
    for job, score in ranked:
        if score.composited:
            print(f"{job.edited}: transparent parts of {' and '.join(score.composited)} were laid on white.")


def _cells(score: EditScore) -> list[str]:
    gaussians = (score.following, score.quality, score.overall)
    numbers = (score.improvement, score.calibrated)
    return [f"{g.mean:+.2f} ± {g.std:.2f}" if g else "" for g in gaussians] + [
        "" if number is None else f"{number:+.2f}" for number in numbers
    ]


if __name__ == "__main__":
    main()
