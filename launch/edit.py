"""Edit images by instruction.

  python launch/edit.py --model shapes --image in.png --instruction "make it snow" --output out.png
  python launch/edit.py --model runs/reward --image photos/ --instruction "make it snow" --output edited/
  python launch/edit.py --model runs/reward --image edits.jsonl --output edited/

A line of a .jsonl (only the image is needed where flags say the rest):
  {"image": "a.png", "instruction": "make it snow", "reward": [5, 5, 5], "output": "b.png"}

Outputs that exist are left alone, so a stopped run goes on. Each PNG carries its settings in its text "rewardedit_jax".
"""

import argparse
import sys
from pathlib import Path

from absl import logging

from rewardedit_jax.command_line import complain_clearly
from rewardedit_jax.diffusion.samplers import SAMPLERS
from rewardedit_jax.editing.editor import NATIVE, Editor
from rewardedit_jax.editing.files import plan_jobs, run_jobs
from rewardedit_jax.reward import Reward

# Arguments of `Editor.edit` that flags of the same name give as they are.
_SETTINGS = ("steps", "sampler", "text_guidance", "image_guidance", "reward_guidance")


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes'")
    p.add_argument("--image", required=True, type=Path, help="an image, a folder, or a .jsonl")
    p.add_argument("--instruction", help="what to change")
    p.add_argument("--output", required=True, type=Path, help="a PNG, or a folder for several images")
    p.add_argument("--reward", nargs=3, type=float, default=(5, 5, 5), metavar=("FOLLOWING", "PRESERVING", "QUALITY"),
                   help="scores 0..5 to ask for (default: 5 5 5)")  # fmt: skip
    p.add_argument("--feedback", nargs=3, metavar="TEXT", help="what fails, per score (default: None None None)")
    p.add_argument("--steps", type=int, default=30, help="sampling steps (default: %(default)s)")
    p.add_argument("--sampler", choices=SAMPLERS, default="euler_ancestral", help="default: %(default)s")
    p.add_argument("--text-guidance", type=float, default=7.5, help="weight of the instruction (default: %(default)s)")
    p.add_argument("--image-guidance", type=float, default=1.5, help="weight of the source (default: %(default)s)")
    p.add_argument("--reward-guidance", type=float, default=0.0, help="weight of the reward (default: 0, off)")
    p.add_argument("--low-reward", nargs=3, type=float, metavar=("FOLLOWING", "PRESERVING", "QUALITY"),
                   help="scores that reward guidance leads away from (default: no reward)")  # fmt: skip
    p.add_argument("--resolution", type=int, help="long side (default: what the model was made for)")
    p.add_argument("--seed", type=int, default=0, help="of the first edit; the next ones count up (default: 0)")
    p.add_argument("--batch-size", type=int, default=4, help="edits at a time (default: %(default)s)")
    p.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default: %(default)s"
    )
    return p.parse_args()


def main() -> None:
    a = parse()
    logging.set_verbosity(logging.INFO)
    with complain_clearly():
        reward = Reward(*a.reward, feedback=a.feedback)
        jobs = plan_jobs(a.image, a.instruction, reward, a.output, a.seed)
        settings = {name: getattr(a, name) for name in _SETTINGS}
        settings["resolution"] = NATIVE if a.resolution is None else a.resolution
        settings["low_reward"] = Reward(*a.low_reward) if a.low_reward else None
        faults = run_jobs(Editor.load(a.model, a.dtype), jobs, settings, a.batch_size)
    if faults:
        sys.exit("\n".join([f"error: {len(faults)} of {len(jobs)} images were not edited:", *faults]))


if __name__ == "__main__":
    main()
