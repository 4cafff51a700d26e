"""Recipes: a file under configs/ and overrides → the configuration of a training, and the check of its settings.

The schema of a recipe is a msgspec Struct with the type, the range and the meaning of every setting. `TrainingRecipe`
has those that the trainer reads; each task extends it by its own, and then refuses others.
"""

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from absl import flags
from ml_collections import ConfigDict, config_flags
from msgspec import Meta

from rewardedit_jax.command_line import OVERRIDE_ERRORS, error_message
from rewardedit_jax.listing import count_noun, list_lines
from rewardedit_jax.models.remat import Remat
from rewardedit_jax.training.recipe_check import check_section

PREFIX = "--config."  # of an override
# The check refuses NaN and infinity in all of them.
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
Count = Annotated[int, Meta(ge=1, lt=2**31)]
CountOrZero = Annotated[int, Meta(ge=0, lt=2**31)]
Text = Annotated[str, Meta(min_length=1)]
Dtype = Literal["float32", "bfloat16", "float16"]


class Section(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a recipe."""


class Optimizer(Section):
    """The settings of `training.optimizer`, and of the moving average."""

    learning_rate: Positive  # the largest of the schedule
    schedule: Literal["constant", "cosine"]  # after the warm-up; "cosine" falls to 0 at the last step
    warmup_steps: CountOrZero  # in which the learning rate rises linearly from 0
    b1: Fraction  # decay of the first moment
    b2: Fraction  # decay of the second moment
    eps: Positive
    weight_decay: NotNegative  # decoupled, per unit of learning rate
    clip_norm: Positive | None  # largest global norm of the gradients; None: no clipping
    ema_decay: Fraction | None  # of the moving average, which is exported; None: no average
    mu_dtype: Dtype | None  # of the first moment; None: that of the parameters
    eight_bit: bool = False  # both moments in 8 bits (`training.eight_bit_adam`), whatever `mu_dtype` says


class Mesh(Section):
    """Devices per axis; -1: all that remain."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = {f"mesh.{axis}": size for axis, size in msgspec.structs.asdict(self).items()}
        faults = [f"{name}={size}" for name, size in sizes.items() if size < 1 and size != -1]
        if faults:
            raise ValueError(*(f"{fault}: expected an integer >= 1, or -1 for all that remain" for fault in faults))
        if list(sizes.values()).count(-1) > 1:
            raise ValueError(f"{', '.join(f'{name}={size}' for name, size in sizes.items())}: expected at most one -1")


class Compute(Section):
    """How networks compute; parameters and optimizer are in float32."""

    dtype: Dtype
    remat: Remat  # what of a block the backward pass computes again, to save memory


class Data(Section):
    """Training records."""

    root: Text  # folder or file
    skip_bad: bool  # False: an unreadable image stops the run; True: it is counted and replaced
    threads: CountOrZero  # that read batches; 0: the main thread reads
    allow_outside: bool = False  # whether paths in a list file may lead out of its folder
    train: Count | None = None  # examples of data that is generated on first use, as the next one
    test: Count | None = None


class LoRA(Section):
    """Low-rank differences of kernels (`models.lora.LoRA`), which train where `trainable` says so."""

    rank: Count
    alpha: Positive
    targets: tuple[str, ...]  # regular expressions of parameter paths, without "/kernel"
    dropout: Fraction


class TrainingRecipe(msgspec.Struct):
    """The settings that the trainer reads."""

    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    steps: Count  # optimizer steps
    batch_size: Count  # examples of a micro-batch, over all devices
    accumulate: Count  # micro-batches per optimizer step
    optimizer: Optimizer
    mesh: Mesh
    log_every: CountOrZero  # steps, as the next two; 0: after the last step only
    checkpoint_every: CountOrZero
    evaluate_every: CountOrZero  # 0: never
    keep_checkpoints: Count  # the newest
    nonfinite: Literal["stop", "skip"]  # what a step does whose loss or gradients are not finite
    stall_seconds: Positive | None  # after which a part of a step that hangs is reported; None: by the median step


class ModelRecipe(TrainingRecipe, forbid_unknown_fields=True):
    """The settings of every task that trains a part of a model."""

    task: Text
    init: str  # model that training starts from; "": from scratch
    # (regular expression of parameter paths, whether they train); the first that matches decides
    trainable: tuple[tuple[str, bool], ...]
    compute: Compute

    def __post_init__(self):
        if not any(trains for _, trains in self.trainable):
            raise ValueError(f"trainable={self.trainable!r}: expected a rule with True, because nothing would train")
        for pattern, _ in self.trainable:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"trainable: {pattern!r} is not a regular expression: {error}") from error


def define_recipe(
    flag_values: flags.FlagValues = flags.FLAGS, argv: Sequence[str] | None = None
) -> flags.FlagHolder[ConfigDict]:
    """The flag --config=FILE, and a flag --config.FIELD=VALUE for every field. The value None unsets a field.

    Args:
      argv: the command line; None: that of the process.
    """
    parsers = {
        bool: flags.BooleanParser().parse,
        int: flags.IntegerParser().parse,
        float: flags.FloatParser().parse,
        str: str,
        type(None): _literal,  # a field that is None does not say its type
    }
    for type_, parse in parsers.items():
        config_flags.register_flag_parser_for_type(type_, _OrNone(parse))
    description = "Recipe: configs/FILE.py or configs/FILE.py:shapes."
    return config_flags.DEFINE_config_file("config", None, description, flag_values, sys_argv=argv)


class _OrNone(flags.ArgumentParser):
    """The parser of a type, and of None, which ml_collections has no word for."""

    def __init__(self, parse: Callable[[Any], Any]):
        self._parse = parse

    def parse(self, argument: Any) -> Any:
        return None if argument == "None" else self._parse(argument)


def _literal(argument: str) -> Any:
    try:
        return ast.literal_eval(argument)
    except (SyntaxError, ValueError):
        return argument


def read_recipe(file: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The configuration that `launch/train.py --config=FILE OVERRIDES` trains; later overrides win."""
    if not Path(file.partition(":")[0]).is_file():
        raise FileNotFoundError(f"there is no recipe {file.partition(':')[0]}")
    if malformed := [word for word in overrides if not word.startswith(PREFIX) or "=" not in word]:
        raise ValueError(f"expected {PREFIX}field=value: {' '.join(malformed)}")
    # Separate flag values: absl's global flags belong to the launcher.
    values, argv = flags.FlagValues(), ["recipe", f"--config={file}", *overrides]
    holder = define_recipe(values, argv)
    try:
        values(argv)
        return holder.value
    except (*OVERRIDE_ERRORS, ValueError) as error:
        raise ValueError(f"{file}: {error_message(error)}") from error


def check_recipe(config: ConfigDict, schema: type[TrainingRecipe]) -> None:
    """Checks every setting of a recipe; reads no files.

    Raises:
      ValueError: with one line per fault: the setting, its value, and what is expected.
    """
    try:
        check_section(config.to_dict(), schema)
    except ValueError as error:
        heading = f"the recipe has {count_noun(len(error.args), 'wrong setting')}:"
        raise ValueError(list_lines(heading, error.args)) from None
