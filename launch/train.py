"""Train an editor, a scorer (or the shapes world's autoencoder) by a recipe.

  python launch/train.py --config configs/reward_ip2p.py:shapes --workdir runs/reward
  python launch/train.py --config configs/reward_ip2p.py --workdir runs/big --config.batch_size=256

The recipe is a file under configs/; ":shapes" is its laptop size on the embedded world, ":debug" takes a minute, no
argument is the paper's. Any field can be set after it: --config.steps=100. DIR/metrics.jsonl and TensorBoard files are
written while it runs; DIR/model, written at the end, is what `launch/edit.py --model DIR` loads. Ctrl-C finishes the
running step, saves and stops; the same command with --resume goes on, also to a larger --config.steps. On a TPU pod or
a cluster, run it on every host with --distributed and a --workdir that all of them see.
"""

from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from rewardedit_jax.command_line import complain_clearly, only_our_warnings
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.scoring.task import ScoringTask
from rewardedit_jax.shapes.tasks import ShapesAutoencoderTask, ShapesEditingTask, ShapesScoringTask
from rewardedit_jax.training.checkpoints import check_workdir
from rewardedit_jax.training.loop import train

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe: configs/FILE.py or configs/FILE.py:shapes.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of checkpoints, metrics and the trained model.", required=True
)
_RESUME = flags.DEFINE_bool("resume", False, "Go on from the last checkpoint in --workdir.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several hosts: run the same command on each with this flag.")
flags.mark_flag_as_required("config")

_TASKS = {
    "editing": EditingTask,
    "scoring": ScoringTask,
    "shapes_editing": ShapesEditingTask,
    "shapes_scoring": ShapesScoringTask,
    "shapes_autoencoder": ShapesAutoencoderTask,
}


def parse(argv: list[str]) -> list[str]:
    """Reads the flags. Without -v, the log holds this package's warnings and everybody's errors."""
    with complain_clearly(flags.Error, AttributeError, KeyError, TypeError):  # a recipe without such a field, or value
        rest = flags.FLAGS(argv)
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().addFilter(only_our_warnings)
    return rest


def main(argv: list[str]) -> None:
    config = _CONFIG.value
    with complain_clearly():
        if argv[1:]:
            raise ValueError(f"what is {' '.join(argv[1:])}? Settings have the form --config.steps=100.")
        if _DISTRIBUTED.value:
            jax.distributed.initialize()  # finds the other hosts by itself on TPU pods, Slurm and the like
        workdir = Path(_WORKDIR.value)
        check_workdir(workdir, _RESUME.value)  # before anything is read or made
        task = _TASKS[config.task](config)
        train(task, config, workdir, resume=_RESUME.value)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
