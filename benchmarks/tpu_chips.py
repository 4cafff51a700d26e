"""Published figures of TPU chips, and the least time that a compiled program takes by them (its roofline).

Figures: Cloud TPU's documentation of v5e, v5p and v6e (docs.cloud.google.com/tpu/docs). It gives ICI as the sum over
all links and both directions. Half of it leaves a chip, which agrees with its "all-reduce bandwidth per pod".

Assumptions: products run at the peak rate of bfloat16; every byte of HBM traffic at the peak rate of the memory;
collectives are rings in both directions over the axes of the torus that their group spans, wrap-around links included.
Each slice first reduces within itself, so that between slices one copy of the result crosses the data-center network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from program_costs import BETWEEN_SLICES, Collective

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Rates are per second."""

    flops: float  # bfloat16
    hbm: float  # bytes
    hbm_rate: float
    ici_rate: float  # bytes that leave a chip over all links
    axes: int  # of the torus
    dcn_rate: float  # bytes that leave a chip for other slices


CHIPS = {
    "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, 2, 6.4e12 / 8 / 256),
    "v6e": Chip(918e12, 32 * GIB, 1638e9, 400e9, 2, 25.6e12 / 8 / 256),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, 3, 50e9 / 8),
}


class Place(NamedTuple):
    """Where a device of a mesh is."""

    slice: int
    coords: tuple[int, ...]


class Roofline(NamedTuple):
    """Seconds of a step."""

    compute: float
    hbm: float
    collectives: float

    @property
    def chip(self) -> float:
        """Without any other chip."""
        return max(self.compute, self.hbm)

    @property
    def overlapped(self) -> float:
        """If all communication is behind computation."""
        return max(self.chip, self.collectives)

    @property
    def sequential(self) -> float:
        """If no communication is."""
        return self.chip + self.collectives

    @property
    def efficiency(self) -> tuple[float, float]:
        """Of many chips against one with the same work: (no communication is hidden, all is)."""
        return self.chip / self.sequential, self.chip / self.overlapped


def roofline(
    chip: Chip, flops: float, hbm_bytes: float, collectives: Sequence[Collective], places: Sequence[Place]
) -> Roofline:
    """The roofline of a program on each chip of a mesh, whose devices are at `places`."""
    moved = sum(one.runs * collective_seconds(one, chip, places) for one in collectives)
    return Roofline(flops / chip.flops, hbm_bytes / chip.hbm_rate, moved)


def collective_seconds(one: Collective, chip: Chip, places: Sequence[Place]) -> float:
    """Seconds of one run of a collective."""
    if one.kind == BETWEEN_SLICES:  # an all-reduce of what a chip has left after its own slice
        slices = len({place.slice for place in places})
        return 2 * one.bytes * (slices - 1) / slices / chip.dcn_rate
    group = [places[i] for i in one.group]
    slices = len({place.slice for place in group})
    within = len(group) // slices
    spanned = sum(
        len(set(axis)) > 1 for axis in zip(*(p.coords for p in group if p.slice == group[0].slice), strict=True)
    )
    if one.kind == "collective-permute":  # one link, one direction
        link = chip.ici_rate / (2 * chip.axes)
        return one.bytes / (chip.dcn_rate if slices > 1 else link)
    passes = 2 if one.kind == "all-reduce" else 1  # a reduce-scatter and an all-gather
    inner = passes * one.bytes * (within - 1) / within
    # Of an all-to-all, everything that is for another slice crosses; else the share that is reduced in the slice.
    share = one.bytes if one.kind == "all-to-all" else one.bytes / within
    outer = passes * share * (slices - 1) / slices
    ici = inner / (chip.ici_rate * spanned / chip.axes) if inner else 0.0
    return ici + outer / chip.dcn_rate
