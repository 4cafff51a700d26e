"""Edit images by instruction.

  python launch/edit.py --model shapes --image in.png --instruction "make it snow" --output out.png
  python launch/edit.py --model runs/reward --image photos/ --instruction "make it snow" --output edited/
  python launch/edit.py --model runs/reward --image edits.jsonl --output edited/ --shard 1/2   # 2/2 on another machine

A line of a .jsonl file: {"image": "a.png", "instruction": "make it snow", "reward": [5, 5, 5], "output": "b.png"}; only
the image is required, flags give the defaults of the others. Paths are relative to the list and to --output, and stay
below them unless --allow-outside is given. The same command resumes a stopped run, because outputs that exist are not
made again. What cannot be edited is listed at the end, and is an error beyond --skip-bad N. Each PNG has its settings
in its text chunk "rewardedit_jax".
"""

import argparse

from rewardedit_jax.command_line import complain_clearly, report_bad, set_up_command
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.files import add_list_arguments, edit_to_files, selected_jobs
from rewardedit_jax.editing.settings import add_setting_arguments, read_settings


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes'")
    add_list_arguments(p)
    add_setting_arguments(p)
    return p


def main() -> None:
    set_up_command()
    with complain_clearly():
        a, jobs, faults = selected_jobs(parser())
        settings = read_settings(a)
        editor = Editor.load(a.model, a.dtype)
        total = len(jobs) + len(faults)
        faults += edit_to_files(editor, jobs, settings, a.batch_size)
    report_bad(faults, total, "images were not edited", a.skip_bad)


if __name__ == "__main__":
    main()
