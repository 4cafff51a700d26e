"""What a base editor is: the protocol that `Editor`, training objective, sampling and task speak to.

A base editor turns requests (source image, instruction, reward) into conditions, and noisy latents under these
conditions into a prediction. Everything that differs between editors lies behind this protocol: which networks there
are, how texts are tokenised, how the source enters, which conditions are dropped in training, and which branches
guidance has. A new base editor is one module beside this one, listed in `rewardedit_jax.bases.BASES`.

Two kinds of method are kept apart. Those on the host (`read`, `guide`, `open`, `start`, `save`) handle texts and files.
The others are pure functions of arrays, traced by `jax.jit` with the base as a static argument. A base is therefore
hashable, holds no parameters, and two bases that compile to the same program are equal.

Axes: b batch, k guidance branches, H W image, h w c latents.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8
from ml_collections import ConfigDict

from rewardedit_jax.bases.components import Start
from rewardedit_jax.diffusion.process import NoiseProcess
from rewardedit_jax.params import Params
from rewardedit_jax.reward import Reward

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


@runtime_checkable
class Base(Protocol):
    """A base editor."""

    name: ClassVar[str]  # as `config.base_editor` names it
    pipelines: ClassVar[tuple[str, ...]]  # `_class_name`s of model_index.json that it loads
    components: ClassVar[tuple[str, ...]]  # folders of a pipeline directory, and first keys of the parameter tree

    process: NoiseProcess

    @property
    def partition_rules(self) -> tuple[tuple[str, PartitionSpec], ...]:
        """(path regex, mesh axes) for every parameter of all components."""
        ...

    @property
    def dtype(self) -> DTypeLike:
        """The type that the denoiser computes in."""
        ...

    @property
    def has_reward(self) -> bool:
        """Whether the networks take a reward."""
        ...

    @property
    def size_multiple(self) -> int:
        """Image sides must be multiples of this."""
        ...

    @property
    def native_resolution(self) -> int | None:
        """The image size that the networks were trained at, in pixels; None if their files do not say it."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(h, w, c) of the latents of an image."""
        ...

    # On the host

    def read(
        self,
        sources: Sequence[UInt8[np.ndarray, "H W 3"]],
        instructions: Sequence[str],
        rewards: Sequence[Reward | None],
        report_cut: ReportCut,
    ) -> Any:
        """The inputs of some requests: a struct of arrays with a leading batch axis."""
        ...

    def guide(self, text: float, image: float, reward: float) -> Guidance:
        """Branches and weights of the three guidance scales. A scale that the base does not have is a ValueError."""
        ...

    # Traced

    def encode(self, params: Params, images: Float[Array, "b H W 3"]) -> Any:
        """What the autoencoder makes of images in [-1, 1]: a struct of arrays with a leading batch axis."""
        ...

    def latents(self, encoded: Any, rng: PRNGKeyArray) -> Float[Array, "b h w c"]:
        """Clean latents, drawn from the encoding, as the noise process takes them."""
        ...

    def decode(self, params: Params, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W 3"]:
        """Images in 0..1 of clean latents."""
        ...

    def draw_keep(self, rng: PRNGKeyArray, batch: int, dropout: Dropout) -> Keep:
        """Which conditions each training example keeps, by the name of the condition."""
        ...

    def condition(self, params: Params, source: Any, inputs: Any, keep: Keep) -> Any:
        """The conditions of training examples, from the encoded source images and the inputs of their requests."""
        ...

    def condition_branches(self, params: Params, source: Any, inputs: Any, low: Any, branches: tuple[str, ...]) -> Any:
        """The conditions of all guidance branches, branch after branch: leaves [k·b, ...].

        Args:
          low: inputs of the same requests with the reward that guidance leads away from.
        """
        ...

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
        ...

    # Files

    @classmethod
    def open(cls, directory: Path, dtype: DTypeLike) -> "Start":
        """The base in a pipeline directory; reads configs and tokenizers, no weights."""
        ...

    @classmethod
    def start(cls, config: ConfigDict) -> "Start":
        """The base that a recipe trains; reads no weights."""
        ...

    def save(self, params: Params, directory: Path) -> None:
        """Write a pipeline directory that `open` reads."""
        ...
