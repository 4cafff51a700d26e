"""Device meshes and shardings: which device holds which part of the parameters and of a batch.

`jax.experimental.pjit` was merged into `jax.jit`; the shardings made here are its `in_shardings` and `out_shardings`.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from rewardedit_jax.listing import list_lines
from rewardedit_jax.params import Rules, find_rule, path_of

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # examples are divided over these; all members of a tensor group hold the same ones


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh data × fsdp × tensor; one size may be -1 and takes the remaining devices.

    Examples are divided over data and fsdp. Parameters are divided over fsdp (gathered where they are used) and over
    tensor (used in parts). Of several slices of a TPU, each holds whole groups of fsdp and tensor if they fit: only
    gradients then cross the slower network between slices.

    Args:
      devices: None: all.
    Raises:
      ValueError: if the sizes do not multiply to the number of devices, or a tensor group would span hosts.
    """
    devices = jax.devices() if devices is None else devices
    sizes, count = [data, fsdp, tensor], len(devices)
    fixed = math.prod(size for size in sizes if size != -1)
    filled = [max(count // max(fixed, 1), 1) if size == -1 else size for size in sizes]
    if sizes.count(-1) > 1 or min(filled) < 1 or math.prod(filled) != count:
        wanted = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise ValueError(
            f"mesh {wanted} does not fit {count} device(s): the sizes must multiply to {count}; "
            "set one of them, and only one, to -1 to let it take the rest"
        )
    # Auto axes: the compiler places what lies between our annotations. The default of jax.make_mesh is Explicit,
    # under which convolutions with a sharded kernel fail.
    mesh = Mesh(_arranged(filled, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    for group in mesh.devices.reshape(-1, mesh.shape["tensor"]):
        if len({device.process_index for device in group}) > 1:
            local = sum(device.process_index == group[0].process_index for device in devices)
            raise ValueError(
                f"mesh axis tensor={mesh.shape['tensor']} spans hosts, which read different examples; "
                f"it must divide the {local} device(s) of a host"
            )
    return mesh


def _arranged(sizes: list[int], devices: Sequence[Any]) -> np.ndarray:
    """The devices of each place of a mesh: neighbours in the network are neighbours in the mesh.

    Raises:
      ValueError: if the slices of a TPU divide neither data nor data × fsdp.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1 or devices[0].platform != "tpu":
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    data, fsdp, tensor = sizes
    over_data = math.gcd(data, slices)
    over_fsdp = slices // over_data
    if fsdp % over_fsdp:
        raise ValueError(f"mesh data={data}, fsdp={fsdp} does not fit {slices} slices: they must divide data × fsdp")
    within = (data // over_data, fsdp // over_fsdp, tensor)
    return mesh_utils.create_hybrid_device_mesh(
        within, (over_data, over_fsdp, 1), devices, allow_split_physical_axes=True
    )


def infer_shardings(tree: Any, rules: Rules, mesh: Mesh | AbstractMesh) -> Any:
    """The sharding of every leaf, by the first rule that matches its parameter path.

    Works for a parameter tree and for a whole training state, whose optimizer moments and averages have the paths of
    their parameters (`path_of`). Counters have the empty path and are replicated.

    Args:
      tree: leaves with a shape.
      rules: (path regex, PartitionSpec).
    Raises:
      ValueError: naming every parameter that no rule covers, or whose shape its spec does not divide.
    """
    # An ordered set: optimizer moments would repeat the fault of their parameter.
    faults: dict[str, None] = {}

    def assign(key_path, leaf):
        path = path_of(key_path)
        rule = partition_rule(rules, path) if path else ("", PartitionSpec())
        if fault := _fault(leaf.shape, rule, mesh):
            faults[f"{path}: {fault}"] = None
            return None
        return NamedSharding(mesh, rule[1])

    shardings = jax.tree_util.tree_map_with_path(assign, tree)
    if faults:
        raise ValueError(list_lines("the partition rules do not fit these parameters on this mesh:", [*faults]))
    return shardings


def partition_rule(rules: Rules[PartitionSpec], path: str) -> tuple[str, PartitionSpec] | None:
    """(regex, spec) of a parameter; None if no rule covers it.

    A low-rank difference A B follows the rule of its kernel: A has the kernel's first axis, B its second one. The rank
    is small, and is not divided.
    """
    module, _, name = path.rpartition("/")
    if name not in ("lora_a", "lora_b"):
        return find_rule(rules, path)
    if (rule := find_rule(rules, f"{module}/kernel")) is None:
        return None
    rows, columns = (*rule[1], None, None)[:2]
    return rule[0], PartitionSpec(rows, None) if name == "lora_a" else PartitionSpec(None, columns)


def _fault(shape: tuple[int, ...], rule: tuple[str, PartitionSpec] | None, mesh: Mesh | AbstractMesh) -> str | None:
    """Why a rule cannot shard an array of this shape; None if it can."""
    if rule is None:
        return "no rule covers it"
    regex, spec = rule
    if len(spec) > len(shape):
        return f"{spec} of rule {regex!r} has more axes than its shape {shape}"
    for size, axes in zip(shape, spec, strict=False):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            return f"{spec} of rule {regex!r} cannot divide {size} of its shape {shape} by {parts} ({' × '.join(axes)})"
    return None


def batch_parts(mesh: Mesh | AbstractMesh) -> int:
    """The number of parts that a batch is divided into: data × fsdp."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises ValueError if a batch cannot be divided evenly over the mesh."""
    if batch_size % batch_parts(mesh):
        raise ValueError(
            f"batch_size={batch_size} is not divisible by the mesh's data={mesh.shape['data']} × "
            f"fsdp={mesh.shape['fsdp']}: take a multiple of {batch_parts(mesh)}, or give more of the devices to tensor"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_axes_in_scope(examples: int) -> tuple[str, ...]:
    """The axes of the mesh that is set (`jax.set_mesh`) over which a network divides its batch; () without such a mesh.

    A batch that does not divide evenly is not divided.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    return axes if examples % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()


def parameters_are_whole() -> bool:
    """Whether each device has all parameters on the mesh that is set (`jax.set_mesh`), or no mesh is."""
    return all(size == 1 for axis, size in jax.sharding.get_abstract_mesh().shape.items() if axis != "data")


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def global_batch(batch: Any, mesh: Mesh) -> Any:
    """Global arrays of a batch, assembled from the examples that each host has read."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def place(tree: Any, shardings: Any) -> Any:
    """Arrays that every host holds in full, laid out on the mesh by `shardings` (a tree of the same structure)."""

    def put(x, sharding):
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        # device_put to devices of other hosts is a collective; each host can supply its own shards without one.
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, shardings)
