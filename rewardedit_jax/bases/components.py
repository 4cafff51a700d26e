"""The networks of a base editor and where their parameters come from: pipeline directories, recipes, chance."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from rewardedit_jax.diffusion.process import NoiseProcess, process_from_config
from rewardedit_jax.params import Params, abstract_params, random_params
from rewardedit_jax.weights.files import WeightFileError, read_json
from rewardedit_jax.weights.pretrained import NetworkKind, PretrainedNetwork, open_pretrained

Wanted = Callable[[str], bool]  # whether the parameter of this path is asked for


class Component(NamedTuple):
    """One network of a base editor, and where its parameters come from."""

    module: nn.Module  # the network that is used
    # The network that is read or drawn first, if it is another one: without added modules, with a narrower input.
    origin: nn.Module | None = None
    read: Callable[[Wanted | None], Params] | None = None  # of `origin`; None: drawn at random
    fit: Callable[[Params], Params] = lambda params: params  # parameters of `origin` → those that `module` keeps


class Start(NamedTuple):
    """A base editor whose parameters are neither read nor drawn yet."""

    base: Any  # a `bases.base.Base`
    parts: Mapping[str, Component]

    def abstract_params(self) -> Params:
        """Shapes and dtypes of the complete parameter tree."""
        return {name: abstract_params(part.module) for name, part in self.parts.items()}

    def init(self, rng: PRNGKeyArray, wanted: Wanted | None = None) -> Params:
        """The parameters: read where there are weights, drawn where there are none.

        Pure: the same key gives the same tree.

        Args:
          wanted: which parameters to read or draw, by their path; the tree then holds these alone. None: all.
        """
        trees = {}
        for i, (name, part) in enumerate(self.parts.items()):
            below = None if wanted is None else lambda path, name=name: wanted(f"{name}/{path}")
            # Keys by position: one for a network from scratch, and one for what is added to any of them.
            keys = jax.random.fold_in(rng, i), jax.random.fold_in(rng, len(self.parts))
            trees[name] = _init_component(part, *keys, below)
        return {name: tree for name, tree in trees.items() if tree}


def _init_component(
    part: Component, scratch_rng: PRNGKeyArray, added_rng: PRNGKeyArray, wanted: Wanted | None
) -> Params:
    if wanted is not None and not any(map(wanted, flatten_dict(abstract_params(part.module), sep="/"))):
        return {}  # nothing of this component is wanted: its files stay closed
    origin = part.origin or part.module
    params = random_params(origin, scratch_rng, None, wanted) if part.read is None else part.read(wanted)
    if part.origin is not None:
        params = random_params(part.module, added_rng, part.fit(params), wanted)
    return params


def open_component(directory: Path, name: str, kind: NetworkKind, dtype: DTypeLike) -> PretrainedNetwork:
    """The network in the folder `name` of a pipeline directory; reads no weights.

    Raises:
      WeightFileError: if another kind of network lies there.
    """
    network = open_pretrained(directory / name, dtype)
    if not isinstance(network.module, kind.module):
        raise WeightFileError(
            f"{directory / name} holds a {type(network.module).__name__}, not a {kind.module.__name__}: the folders of "
            "the pipeline are mixed up. Copy it again."
        )
    return network


def read_process(directory: Path) -> NoiseProcess:
    """The noise process of a pipeline directory."""
    return process_from_config(read_json(directory / "scheduler" / "scheduler_config.json"))


def recipe_process(config: ConfigDict, directory: Path | None) -> NoiseProcess:
    """The noise process of the pipeline that training starts from, with the changes in `config.schedule`.

    A recipe that names a `beta_schedule` describes all of it, and nothing is read.
    """
    described = config.schedule.to_dict()
    read = {} if "beta_schedule" in described else read_json(directory / "scheduler" / "scheduler_config.json")
    return process_from_config({**read, **described})
