"""The protocol of noise processes, and the process that a diffusers scheduler config describes."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, PRNGKeyArray

from rewardedit_jax.diffusion.ddpm import DDPM
from rewardedit_jax.diffusion.flow_matching import FLOW_MATCHING_CLASS, FlowMatching
from rewardedit_jax.diffusion.samplers import SamplerTable


@runtime_checkable
class NoiseProcess(Protocol):
    """How clean latents become noise, what a network learns from that, and how sampling goes back.

    A process is a frozen, hashable value: it is a static argument of `jax.jit`, and processes that are read from equal
    configs are equal. Latents are [b, h, w, c]. A time is what the network takes as its timestep.
    """

    default_sampler: ClassVar[str]  # the one of `samplers` that is used unless another one is asked for

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names that `sampler_table` accepts."""

    def sample_times(self, rng: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, " b"] | Int[Array, " b"]:
        """Training times for a batch of latents of `shape` (b, h, w, c)."""

    def add_noise(self, clean: Array, noise: Array, times: Array) -> Float[Array, "b *shape"]:
        """x_t: clean latents and standard-normal noise, mixed as at `times`."""

    def target(self, clean: Array, noise: Array, times: Array) -> Float[Array, "b *shape"]:
        """What the network learns to predict from x_t."""

    def check_sampler(self, sampler: Any, steps: Any) -> None:
        """Raise the errors of `sampler_table` that do not depend on `shape`, and warn of settings that are ignored."""

    def sampler_table(self, sampler: str, steps: int, shape: tuple[int, ...] | None = None) -> SamplerTable:
        """The table of a sampler for `samplers.sample`.

        Args:
          sampler: one of `samplers`.
          steps: number of evaluations of the network.
          shape: (b, h, w, c) of the latents. Only processes whose steps depend on the resolution need it.
        Raises:
          ValueError: for a sampler that is not among `samplers`, an impossible number of steps, or a setting that the
            sampler reads but does not implement.
        """

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseProcess":
        """The process that a diffusers scheduler config of its own classes describes."""

    def to_config(self) -> dict[str, Any]:
        """The config that `from_config` and `process_from_config` read as this process."""


def process_from_config(config: Mapping[str, Any]) -> NoiseProcess:
    """The noise process of a diffusers `scheduler_config.json`, chosen by its `_class_name`.

    A config without `_class_name`, such as a recipe's own, describes a `DDPM`.

    Raises:
      ValueError: for a scheduler class of another process, e.g. EDMEulerScheduler, or a setting of another type or
        out of range.
    """
    process = FlowMatching if config.get("_class_name") == FLOW_MATCHING_CLASS else DDPM
    return process.from_config(config)
