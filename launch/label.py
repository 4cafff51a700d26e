"""Have a judge write rewards: for each edit and perspective a score 0..5 and a text on what failed.

  python launch/label.py --data edits.jsonl --judge openai --model gpt-4o --store labels.sqlite --out labels.jsonl
  python launch/label.py --data DIR --judge openai --base-url http://127.0.0.1:8000/v1 --model NAME --store a.sqlite
  python launch/label.py --data DIR --judge replay --store labels.sqlite --out labels.jsonl
  python launch/label.py merge a.sqlite b.sqlite --store labels.sqlite
  python launch/label.py batch --data DIR --model gpt-4o --store labels.sqlite --write requests/
  python launch/label.py report labels.jsonl --data DIR --store labels.sqlite --png labels.png

Judges: an OpenAI-compatible endpoint (key in the environment variable OPENAI_API_KEY), a replay of stored answers, our
scorer (--model DIR), and the oracle of the shapes world. Every answer is stored as it comes: the same command goes on
after a stop and asks nothing twice. Items without an answer are listed by reason, and are an error beyond --skip-bad N.
`label.py report --help`, `merge --help` and `batch --help` list the arguments of the other commands.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter

from rewardedit_jax.command_line import complain_clearly, hide_other_packages
from rewardedit_jax.evaluation.judge_reports import print_reports
from rewardedit_jax.evaluation.label_report import add_label_report_arguments, run_label_report
from rewardedit_jax.judging import command


def oracle_judge(a, data):
    from rewardedit_jax.shapes.oracle_judge import OracleJudge  # with JAX, which the other judges start without

    return OracleJudge(a.data)


def stability(a, plan, store) -> None:
    print_reports(plan, store, a.compare, a.compare_model)


JUDGES = {"openai": command.endpoint_judge, "scorer": command.scorer_judge, "oracle": oracle_judge}
# The first word of the command line → (its arguments, what it does). Without such a word edits are labelled.
COMMANDS = {
    "label": (lambda p: command.add_label_arguments(p, JUDGES), lambda a: command.label(a, JUDGES, stability)),
    "batch": (command.add_batch_arguments, command.batch),
    "merge": (command.add_merge_arguments, command.merge),
    "report": (add_label_report_arguments, run_label_report),
}


def main() -> None:
    named = sys.argv[1:2] and sys.argv[1] in COMMANDS
    word, arguments = (sys.argv[1], sys.argv[2:]) if named else ("label", sys.argv[1:])
    add_arguments, run = COMMANDS[word]
    p = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_arguments(p)
    a = p.parse_args(arguments)
    hide_other_packages()
    with complain_clearly(ImportError):
        run(a)


if __name__ == "__main__":
    main()
