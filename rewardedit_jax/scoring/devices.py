"""Which devices a scorer works on: copies of its weights, each on one device or divided over several."""

import jax
from jax.sharding import Mesh, NamedSharding

from rewardedit_jax.models.edit_reward import PARTITION_RULES
from rewardedit_jax.params import Params
from rewardedit_jax.sharding import infer_shardings, make_mesh, place


def scorer_mesh(tensor: int = 1) -> Mesh:
    """All devices, in groups of `tensor` that share a copy of the weights. Raises ValueError if there are no such.

    Weights are divided, not gathered where they are used (fsdp): a group needs room for one copy and no more.
    """
    devices = jax.device_count()
    if tensor < 1 or devices % tensor:
        raise ValueError(f"tensor={tensor}: of {devices} devices here, so many cannot share a copy of the weights.")
    return make_mesh(tensor=tensor)


def divide_weights(params: Params, mesh: Mesh) -> Params:
    """Each weight in as many parts as a copy has devices."""
    return place(params, infer_shardings(params, PARTITION_RULES, mesh))


def mesh_of(params: Params) -> Mesh:
    """The devices that the weights lie on; where they are in host memory, all."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else scorer_mesh()
