"""Train an editor or a scorer by a recipe.

  python launch/train.py --config configs/reward_ip2p.py:shapes --workdir runs/reward
  python launch/train.py --config configs/reward_ip2p.py --workdir runs/big --config.batch_size=256

The recipe is a file under configs/. Without argument it is the paper's; ":shapes" is the size of a laptop on the shapes
world, ":debug" takes a minute. Any field can be set, --config.steps=100, or unset, --config.optimizer.ema_decay=None.
DIR/metrics.jsonl and TensorBoard files are written during training; DIR/model, written at the end, is what
`launch/edit.py --model DIR` loads. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 finish the running step, save and stop
with exit status 75; the same command with --resume continues, also to a larger --config.steps. On a TPU pod or a
cluster, run it on every host with --distributed and a --workdir that all of them see (launch/cluster/).
"""

import jax
from absl import app, flags

from rewardedit_jax.command_line import complain_clearly, local_path, parse_flags
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.scoring.task import ScoringTask
from rewardedit_jax.shapes.autoencoder_task import ShapesAutoencoderTask
from rewardedit_jax.shapes.language_task import ShapesLanguageTask
from rewardedit_jax.shapes.tasks import ShapesEditingTask, ShapesScoringTask
from rewardedit_jax.startup import start_quickly
from rewardedit_jax.training.loop import train
from rewardedit_jax.training.recipe import check_recipe, define_recipe
from rewardedit_jax.training.workdir import check_workdir

_CONFIG = define_recipe()
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of checkpoints, metrics and the model.", required=True)
_RESUME = flags.DEFINE_bool("resume", False, "Continue from the last checkpoint in --workdir.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several hosts: run the same command on each with this flag.")
flags.mark_flag_as_required("config")

_TASKS = {  # by `config.task`
    "editing": EditingTask,
    "scoring": ScoringTask,
    "shapes_editing": ShapesEditingTask,
    "shapes_scoring": ShapesScoringTask,
    "shapes_autoencoder": ShapesAutoencoderTask,
    "shapes_language": ShapesLanguageTask,
}


def main(argv: list[str]) -> None:
    start_quickly()
    with complain_clearly():
        config, workdir = _CONFIG.value, local_path(_WORKDIR.value)
        if argv[1:]:
            raise ValueError(f"unknown argument {' '.join(argv[1:])}: settings have the form --config.steps=100")
        if (task := _TASKS.get(config.get("task"))) is None:
            raise ValueError(f"task={config.get('task')!r}: expected one of {', '.join(_TASKS)}")
        check_recipe(config, task.schema)  # before it waits for other hosts
        if _DISTRIBUTED.value:
            jax.distributed.initialize()  # finds the other hosts by itself on TPU pods and under Slurm
        check_workdir(workdir, _RESUME.value)  # before models and data are read
        train(task(config), config, workdir, resume=_RESUME.value)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
