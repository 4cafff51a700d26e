"""Cache what the frozen networks of a recipe make of its data, so that training need not run them in every epoch.

  python launch/cache.py --config configs/reward_ip2p.py:shapes --out runs/cache
  python launch/train.py --config configs/reward_ip2p.py:shapes --config.data.cache=runs/cache --workdir runs/reward
  python launch/cache.py --config configs/reward_ip2p.py --out DIR --shard 1/8   # 2/8 to 8/8 on other machines

Of each record the cache has the autoencoder's results for both images, and for their mirror images where the recipe has
data.flip=True, and the text encoder's for the instruction and the feedback. The same command goes on after an
interruption. Shards are files of their own: machines write into one folder that all of them see, or their files are
copied into one. Bad records are listed, with exit status 1 unless the recipe has data.skip_bad=True.
"""

from absl import app, flags

from rewardedit_jax.command_line import complain_clearly, local_path, parse_flags, report_bad
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.editing.cache_writer import write_cache
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.shapes.tasks import ShapesEditingTask
from rewardedit_jax.startup import start_quickly
from rewardedit_jax.training.recipe import define_recipe

_CONFIG = define_recipe()
_OUT = flags.DEFINE_string("out", None, "Folder of the cache.", required=True)
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Widest type of the stored numbers.")
_SHARD = flags.DEFINE_string("shard", None, "I/N: every N-th file, from the I-th on; the others on other machines.")
flags.mark_flag_as_required("config")

_TASKS = {"editing": EditingTask, "shapes_editing": ShapesEditingTask}  # by `config.task`


def main(argv: list[str]) -> None:
    start_quickly()
    with complain_clearly():
        config, folder = _CONFIG.value, local_path(_OUT.value)
        if argv[1:]:
            raise ValueError(f"unknown argument {' '.join(argv[1:])}: settings have the form --config.data.root=DIR")
        if (task_type := _TASKS.get(config.get("task"))) is None:
            raise ValueError(f"task={config.get('task')!r}: expected one that trains an editor, {' or '.join(_TASKS)}")
        part = Shard.parse(_SHARD.value) if _SHARD.value else None
        with config.unlocked():
            config.data.cache = ""  # a recipe may name the cache that is made here
        task = task_type(config)
        bad = write_cache(task, folder, _DTYPE.value, part)
    faults = [f"record {one.number}: {one.reason}" for one in bad]
    skip_bad = len(faults) if config.data.skip_bad else 0
    report_bad(faults, len(task.source), "records have no example in the cache", skip_bad)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
