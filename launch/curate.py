"""Curate a data set: score every edit, drop duplicates and unchanged edits, keep the best, and say why.

  python launch/curate.py --data DIR --scorer shapes_scorer --rule lcb --keep 0.4 --out DIR2
  python launch/curate.py --data edits.jsonl --labels labels.jsonl --rule labels --keep 20000 --out DIR2
  python launch/curate.py --data DIR --scores DIR2/scores.jsonl --facts DIR2/facts.jsonl --rule random --keep 0.4 \
      --out DIR3
  python launch/curate.py --data DIR --scorer DIR1 --rule lcb --keep 0.4 --out DIR2 --shard 1/2
  python launch/curate.py --data DIR --rule lcb --keep 0.4 --out DIR2 --merge
  python launch/curate.py pairs --data PAIRS --out DIR2   # pairs with preferences, for a scorer

Rules: mean, lcb (mean - k standard deviations), improvement (probability of beating the unchanged source), labels (mean
of judged scores), random (the control). The folder of --out is then a prepared data set (config.data.name=prepared) of
the kept edits. Its provenance.jsonl says of every edit whether it is kept, why, and with which scores; curation.json
has the settings and fingerprints. The same command goes on after a stop. The shards I/N run on
several machines; --merge joins their files in the folder. Edits that cannot be read or scored are
dropped, printed at the end, and an error beyond --skip-bad N; the next run tries them again.
Of pairs, those that contradict each other or their own ratings are dropped, and repeated ones.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter

from rewardedit_jax.command_line import complain_clearly, report_bad, set_up_command
from rewardedit_jax.curation.arguments import add_curation_arguments, check_arguments
from rewardedit_jax.curation.curation import curate
from rewardedit_jax.curation.pairs import add_pair_arguments, curate_pairs


def main() -> None:
    set_up_command()
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    if sys.argv[1:2] == ["pairs"]:
        add_pair_arguments(parser)
        with complain_clearly():
            return curate_pairs(parser.parse_args(sys.argv[2:]))
    add_curation_arguments(parser)
    a = parser.parse_args()
    check_arguments(parser, a)
    with complain_clearly(ImportError):
        faults, total = curate(a)
    return report_bad(faults, total, "edits could not be read or scored", a.skip_bad)


if __name__ == "__main__":
    main()
