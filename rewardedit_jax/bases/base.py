"""What a base editor is: the protocol that `Editor`, training objective, sampling and task speak to.

A base editor turns requests (source image, instruction, reward) into conditions, and noisy latents under these
conditions into a prediction. Everything that differs between editors lies behind this protocol: which networks there
are, how texts are tokenised, how the source enters, which conditions are dropped in training, and which branches
guidance has. A new base editor is one module beside this one, listed in `rewardedit_jax.bases.BASES`.

Two kinds of method are kept apart. Those on the host (`read`, `reply`, `guide`, `open`, `start`, `save`) handle texts
and files. The others are pure functions of arrays, traced by `jax.jit` with the base as a static argument. A base is
therefore hashable, holds no parameters, and two bases that compile to the same program are equal.

Axes: b batch, k guidance branches, H W image, h w c latents.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped, UInt8, UInt32
from ml_collections import ConfigDict

from rewardedit_jax.diffusion.process import NoiseProcess, process_from_config
from rewardedit_jax.params import Params, abstract_params, random_params, with_types
from rewardedit_jax.reward import Reward
from rewardedit_jax.weights.files import WeightFileError, read_json
from rewardedit_jax.weights.kinds import NetworkKind
from rewardedit_jax.weights.pretrained import PretrainedNetwork, open_pretrained

Wanted = Callable[[str], bool]  # whether the parameter of this path is asked for
# Called with a text and the number of its tokens that the text encoder does not take.
ReportCut = Callable[[str, int], None]
# Condition → bool or float[b]: 1 where an example keeps it, 0 where it is dropped.
Keep = Mapping[str, Shaped[Array, " b"]]


class Dropout(NamedTuple):
    """Probabilities of training without a condition."""

    conditioning: float  # d of `Base.draw_keep`
    reward: float


class Guidance(NamedTuple):
    """The branches of classifier-free guidance and their weights (see `diffusion.guidance`)."""

    branches: tuple[str, ...]  # static: it decides which program is compiled
    weights: Float[np.ndarray, " k"]


@flax.struct.dataclass
class Precomputed:
    """Training examples after the networks that need not train: all that latents and conditions are made of.

    It does not depend on anything random, so that it can be stored once for all epochs. Leaves are arrays with a
    leading batch axis, those of `shared` without one.
    """

    edited: Any  # the edited images, as `Base.latents` takes them
    source: Any  # what conditions take from the source images
    request: Any  # what conditions take from instructions and rewards; the same for an example and its mirror image
    shared: Any  # what is the same for all examples, such as the states of the empty instruction
    # Of a base that trains what precomputes, on its own objective too; else None:
    reply_loss: Any = None  # float32[b]: of a language model
    is_edit: Any = None  # bool[b]: False for an example that the denoiser does not learn from


@runtime_checkable
class Base(Protocol):
    """A base editor."""

    name: ClassVar[str]  # as `config.base_editor` names it
    pipelines: ClassVar[tuple[str, ...]]  # `_class_name`s of model_index.json that it loads
    components: ClassVar[tuple[str, ...]]  # folders of a pipeline directory, and first keys of the parameter tree
    precomputing: ClassVar[tuple[str, ...]]  # the components that `precompute` uses, and training nothing else of

    process: NoiseProcess

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides edits besides networks and noise process, by its name in model_index.json: JSON values."""

    @property
    def partition_rules(self) -> tuple[tuple[str, PartitionSpec], ...]:
        """(path regex, mesh axes) for every parameter of all components."""

    @property
    def dtype(self) -> DTypeLike:
        """The type that the denoiser computes in."""

    @property
    def has_reward(self) -> bool:
        """Whether the networks take a reward."""

    @property
    def size_multiple(self) -> int:
        """Image sides must be multiples of this."""

    @property
    def native_resolution(self) -> int | None:
        """The image size that the networks were trained at, in pixels; None if their files do not say it."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(h, w, c) of the latents of an image."""

    # On the host

    def read(
        self,
        sources: Sequence[UInt8[np.ndarray, "H W 3"]],
        instructions: Sequence[str],
        rewards: Sequence[Reward | None],
        report_cut: ReportCut,
    ) -> Any:
        """The inputs of some requests: a struct of arrays with a leading batch axis."""

    def reply(self, params: Params, inputs: Any, instructions: Sequence[str], seeds: UInt32[np.ndarray, " b"]) -> Any:
        """The inputs of edits with what a language model replies to their instructions; `inputs` if none is asked.

        Args:
          inputs: of `read`. Training never has other ones.
          seeds: of the edits, for drawing.
        """

    def reading(self) -> Mapping[str, Any]:
        """What decides how `read` turns texts into arrays, by name: JSON values, equal if all inputs are equal."""

    def guide(self, text: float, image: float, reward: float) -> Guidance:
        """Branches and weights of the three guidance scales. A scale that the base does not have is a ValueError."""

    # Traced

    def encode(self, params: Params, images: Float[Array, "b H W 3"], tile: int | None = None) -> Any:
        """What the autoencoder makes of images in [-1, 1]: a struct of arrays with a leading batch axis.

        Args:
          tile: side of the overlapping tiles in which it works, in pixels, a multiple of `size_multiple`; None: it sees
            the whole image.
        """

    def precompute(
        self,
        params: Params,
        source: Float[Array, "b H W 3"],
        edited: Float[Array, "b H W 3"],
        inputs: Any,
        rng: PRNGKeyArray | None = None,
    ) -> Precomputed:
        """What the components in `precomputing` make of training examples.

        Args:
          source, edited: images in [-1, 1].
          inputs: of `read`.
          rng: for dropout layers of components that train; None where their results are stored.
        """

    def latents(self, edited: Any, rng: PRNGKeyArray) -> Float[Array, "b h w c"]:
        """Clean latents, drawn from `Precomputed.edited`, as the noise process takes them."""

    def decode(
        self, params: Params, latents: Float[Array, "b h w c"], tile: int | None = None
    ) -> Float[Array, "b H W 3"]:
        """Images in 0..1 of clean latents. `tile` is as for `encode`."""

    def draw_keep(self, rng: PRNGKeyArray, batch: int, dropout: Dropout) -> Keep:
        """Which conditions each training example keeps, by the name of the condition."""

    def condition(self, params: Params, examples: Precomputed, keep: Keep) -> Any:
        """The conditions of training examples."""

    def condition_branches(self, params: Params, source: Any, inputs: Any, low: Any, branches: tuple[str, ...]) -> Any:
        """The conditions of all guidance branches, branch after branch: leaves [k·b, ...].

        Args:
          source: the encoded source images.
          inputs: of the requests.
          low: inputs of the same requests with the reward that guidance leads away from.
        """

    def denoise(
        self,
        params: Params,
        noisy: Float[Array, "b h w c"],
        times: Float[Array, " b"],
        conditions: Any,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "b h w c"]:
        """What the noise process asks of the network (noise or velocity), float32.

        Args:
          rng: for dropout layers in training; None in evaluation.
        """

    # Files

    @classmethod
    def open(cls, directory: Path, dtype: DTypeLike, allow_nonfinite: bool = False) -> "Start":
        """The base in a pipeline directory; reads configs and tokenizers, no weights.

        Args:
          allow_nonfinite: whether weights may be NaN or infinite when they are read.
        """

    @classmethod
    def check_recipe(cls, recipe: Any) -> None:
        """Check `init`, `network` and `schedule` of an `editing.recipe.EditingRecipe`; reads no files.

        Raises:
          ValueError: with an argument for each fault, which names the field.
        """

    @classmethod
    def start(cls, config: ConfigDict) -> "Start":
        """The base that a recipe trains; reads no weights."""

    def save(self, params: Params, directory: Path) -> None:
        """Write a pipeline directory that `open` reads (with `weights.saving.replace_model`)."""


class Component(NamedTuple):
    """One network of a base editor, and where its parameters come from."""

    module: nn.Module  # the network that is used
    # The network that is read or drawn first, if it is another one: without added modules, with a narrower input.
    origin: nn.Module | None = None
    read: Callable[[Wanted | None], Params] | None = None  # of `origin`; None: drawn at random
    fit: Callable[[Params], Params] = lambda params: params  # parameters of `origin` → those that `module` keeps
    types: Mapping[str, DTypeLike] = MappingProxyType({})  # of the paths that do not have `module.param_dtype`


class Start(NamedTuple):
    """A base editor whose parameters are neither read nor drawn yet."""

    base: Base
    parts: Mapping[str, Component]

    def abstract_params(self) -> Params:
        """Shapes and dtypes of the complete parameter tree."""
        return {name: with_types(abstract_params(part.module), part.types) for name, part in self.parts.items()}

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


def in_turns(first: Shaped[Array, "b *rest"], second: Shaped[Array, "b *rest"]) -> Shaped[Array, "2*b *rest"]:
    """Two batches as one, an example of each in turn.

    A batch is divided over devices in blocks: in this order no example moves between them. Behind each other, the two
    would exchange most of their examples.
    """
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def each_in_turn(tree: PyTree) -> tuple[PyTree, PyTree]:
    """The two structs of a struct of arrays over a batch of `in_turns`."""
    return tuple(jax.tree.map(lambda x, i=i: x.reshape(-1, 2, *x.shape[1:])[:, i], tree) for i in range(2))


def open_component(
    directory: Path,
    name: str,
    kind: NetworkKind,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    allow_nonfinite: bool = False,
) -> PretrainedNetwork:
    """The network in the folder `name` of a pipeline directory; reads no weights.

    Raises:
      WeightFileError: if another kind of network lies there.
    """
    network = open_pretrained(directory / name, dtype, param_dtype, allow_nonfinite)
    if not isinstance(network.module, kind.module):
        raise WeightFileError(
            f"{directory / name} holds a {type(network.module).__name__}, not a {kind.module.__name__}: the folders of "
            "the pipeline are mixed up. Copy it again."
        )
    return network


def read_process(directory: Path) -> NoiseProcess:
    """The noise process of a pipeline directory."""
    return _process(read_json(_scheduler_file(directory)), str(_scheduler_file(directory)))


def recipe_process(config: ConfigDict, directory: Path | None) -> NoiseProcess:
    """The noise process of the pipeline that training starts from, with the changes in `config.schedule`.

    A recipe that names a `beta_schedule` describes all of it, and nothing is read.
    """
    described = config.schedule.to_dict()
    if "beta_schedule" in described:
        return _process(described, "config.schedule")
    if not described:
        return read_process(directory)
    file = _scheduler_file(directory)
    return _process({**read_json(file), **described}, f"{file} with the changes of config.schedule")


def _scheduler_file(directory: Path) -> Path:
    return directory / "scheduler" / "scheduler_config.json"


def _process(settings: Mapping[str, Any], origin: str) -> NoiseProcess:
    try:
        return process_from_config(settings)
    except ValueError as error:
        raise WeightFileError(f"{origin}: {error}") from error
