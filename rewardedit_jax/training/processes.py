"""Several processes train one model: a check that they run the same code with the same settings."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from rewardedit_jax.listing import list_lines, list_names

# What takes part in a step, or in a checkpoint that all of them write.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore", "numpy")


def check_processes_agree(config: ConfigDict) -> None:
    """Compare versions and settings of all processes: a collective.

    Processes that differ would compile different programs, and wait for each other for ever, or train something else
    than the recipe says.

    Raises:
      ValueError: on every process, with what differs and the values.
    """
    if jax.process_count() == 1:
        return
    settings = flatten_dict({"config": config.to_dict()}, sep=".")
    facts = {
        "Python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "source code of rewardedit_jax": _source_digest(),
        **{name: str(value) for name, value in settings.items()},
    }
    differences = find_differences([json.loads(text) for text in _gather(json.dumps(facts))])
    if differences:
        heading = f"the {jax.process_count()} processes of this run differ; start all of them alike:"
        raise ValueError(list_lines(heading, differences))


def find_differences(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for each fact that is not the same on all processes."""
    names = dict.fromkeys(name for known in facts for name in known)  # in order
    lines = []
    for name in names:
        where: dict[str, list[int]] = {}
        for process, known in enumerate(facts):
            where.setdefault(known.get(name, "absent"), []).append(process)
        if len(where) > 1:
            lines.append(
                f"{name}: " + "; ".join(f"{value} on process {list_names(who)}" for value, who in where.items())
            )
    return lines


def _gather(text: str) -> list[str]:
    """The texts of all processes."""
    data = np.frombuffer(text.encode(), np.uint8)
    # Arrays of a collective have one shape.
    longest = int(multihost_utils.process_allgather(np.int32(data.size)).max())
    rows = multihost_utils.process_allgather(np.pad(data, (0, longest - data.size)))
    return [np.asarray(row, np.uint8).tobytes().rstrip(b"\0").decode() for row in rows]


def _source_digest() -> str:
    """Of this package's files: a host that was not updated often has the same version number."""
    package = Path(__file__).parent.parent
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()
