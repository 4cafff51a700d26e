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
from rewardedit_jax.diffusion.samplers import SAMPLERS
from rewardedit_jax.editing.editor import NATIVE, Editor
from rewardedit_jax.editing.files import SCORES, add_list_arguments, edit_to_files, selected_jobs
from rewardedit_jax.reward import Reward

_SETTINGS = ("steps", "sampler", "text_guidance", "image_guidance", "reward_guidance")  # arguments of `Editor.edit`


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes'")
    add_list_arguments(p)
    p.add_argument("--steps", type=int, default=30, help="sampling steps (default: %(default)s)")
    p.add_argument("--sampler", choices=SAMPLERS, help="default: the noise process's, euler_ancestral for a DDPM")
    p.add_argument("--text-guidance", type=float, default=7.5, help="weight of the instruction (default: %(default)s)")
    p.add_argument("--image-guidance", type=float, default=1.5, help="weight of the source (default: %(default)s)")
    p.add_argument("--reward-guidance", type=float, default=0.0, help="weight of the reward (default: 0, off)")
    p.add_argument("--low-reward", **SCORES, help="scores that reward guidance leads away from (default: no reward)")
    p.add_argument("--resolution", type=int, help="long side in pixels (default: the model's own)")
    p.add_argument("--batch-size", type=int, default=4, help="edits at a time (default: %(default)s)")
    dtypes = ("float32", "bfloat16", "float16")
    p.add_argument("--dtype", choices=dtypes, help="default: bfloat16, on a CPU float32")
    return p


def main() -> None:
    set_up_command()
    with complain_clearly():
        a, jobs, faults = selected_jobs(parser())
        settings = {name: getattr(a, name) for name in _SETTINGS}
        settings["resolution"] = NATIVE if a.resolution is None else a.resolution
        settings["low_reward"] = Reward(*a.low_reward) if a.low_reward else None
        editor = Editor.load(a.model, a.dtype)
        total = len(jobs) + len(faults)
        faults += edit_to_files(editor, jobs, settings, a.batch_size)
    report_bad(faults, total, "images were not edited", a.skip_bad)


if __name__ == "__main__":
    main()
