"""Prepare a data set: check every record once, and write what the recipes, launch/label.py and launch/curate.py read.

  python launch/prepare_data.py aurora --source data/aurora --out data/prepared/aurora
  python launch/prepare_data.py magicbrush --source osunlp/MagicBrush --out data/prepared/magicbrush   # from the hub
  python launch/prepare_data.py triplets --source mine/list.jsonl --out data/prepared/mine --skip-bad 20
  python launch/prepare_data.py editreward_data --source DIR --out parts/1 --shard 1/4   # 2/4 .. on other machines
  python launch/prepare_data.py editreward_data --out data/prepared/pairs --merge parts/1 parts/2 parts/3 parts/4

{layouts}

DIR, which is printed at the end, is a TFDS data set of array_record files; a recipe reads it by
config.data.name=prepared and config.data.root=DIR. Images stay encoded as they are published, and each is decoded once
to find the bad ones. These are left out and listed with their reason, also in DIR/bad.jsonl; more than --skip-bad N of
them are an error at the end. The same command goes on after a stop: finished files stay. A hub id is downloaded at one
commit, which DIR keeps. Machines that share a folder have one DIR, and --merge gets no PART.
"""

import argparse

from rewardedit_jax.command_line import complain_clearly, report_bad, set_up_command
from rewardedit_jax.data.prepare_command import add_arguments, layouts_help, prepare


def parser() -> argparse.ArgumentParser:
    description = __doc__.replace("{layouts}", layouts_help())
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(p)
    return p


def main() -> None:
    a = parser().parse_args()
    set_up_command()
    with complain_clearly():
        bad, total = prepare(a)
    print(a.out)
    # The bad records of one machine are no error yet: the merge counts those of all.
    report_bad(bad, total, "records are bad and left out", len(bad) if a.shard else a.skip_bad)


if __name__ == "__main__":
    main()
