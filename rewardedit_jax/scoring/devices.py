"""Where a scorer's arrays lie: the network on every device, rows and images dealt out."""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def everywhere() -> NamedSharding:
    """A copy on each device."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec())


def spread() -> NamedSharding:
    """A part of the leading axis, which the devices must divide, on each."""
    return everywhere().update(spec=PartitionSpec("data"))
