"""Score edits: how well each follows its instruction, its quality, and both together.

  python launch/score.py --model DIR --source a.png --edited b.png c.png --instruction "make it snow" --json out.json
  python launch/score.py --model DIR --source sources/ --edited edits/ --instruction "make it snow" --output out.jsonl
  python launch/score.py --model DIR --list edits.jsonl --output out.jsonl
  python launch/score.py --model DIR --list edits.jsonl --shard 1/2 --output part1.jsonl   # 2/2 on another machine
  python launch/score.py --list edits.jsonl --merge part1.jsonl part2.jsonl --output out.jsonl

A line of a list: {"source": "a.png", "edited": "b.png", "instruction": "make it snow"}. Paths are relative to the list
and stay below its folder unless --allow-outside is given; "edited" may be a list of paths. With two folders, an edit
has the name of its source. Scores have no unit: higher is better, ± is the scorer's uncertainty; "improvement" is the
difference to the unchanged source, "calibrated" the share of the scorer's reference edits that the edit beats. The same
command resumes a stopped run of --output. Edits that cannot be scored are printed at the end, stored with their error,
and tried again by the next run. --merge checks that no edit of the list is missing or doubled.
"""

from argparse import ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter

from rewardedit_jax.command_line import complain_clearly, local_path, png_file, report_bad, set_up_command
from rewardedit_jax.evaluation.ranking import report_scores
from rewardedit_jax.scoring.files import add_list_arguments, merge_scores, score_jobs, score_to_file, selected_jobs
from rewardedit_jax.scoring.scorer import Scorer


def parser() -> ArgumentParser:
    p = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    p.add_argument("--model", help="directory, training workdir or hub id; required unless --merge")
    p.add_argument("--base", help="directory or hub id of the base model, for the tokenizer of published checkpoints")
    add_list_arguments(p)
    p.add_argument("--json", type=local_path, help="all scores as one JSON list, written at the end")
    p.add_argument("--png", type=png_file, help="a sheet of the images with their scores, best edits first")
    p.add_argument("--improvement", action=BooleanOptionalAction, default=True, help="also score unchanged sources")
    p.add_argument("--batch-size", type=int, default=8, help="edits at a time (default: %(default)s)")
    p.add_argument("--tensor", type=int, default=1, metavar="N", help="devices per copy of the model (default: 1)")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16, on a CPU float32")
    return p


def main() -> None:
    set_up_command()
    with complain_clearly():
        a, jobs, faults = selected_jobs(parser())
        total = len(jobs) + len(faults)
        if a.merge:
            faults += merge_scores(jobs, a.merge, a.output)
        else:
            scorer, settings = Scorer.load(a.model, a.base, a.dtype, a.tensor), (a.batch_size, a.improvement)
            if a.output:
                faults += score_to_file(scorer, jobs, a.output, *settings)
            else:
                faults += report_scores(list(score_jobs(scorer, jobs, *settings)), a.json, a.png)
    report_bad(faults, total, "edits were not scored", a.skip_bad)


if __name__ == "__main__":
    main()
