"""What a compiled program does on each chip: products, memory traffic, collectives, changes of layout."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from hlo_text import COLLECTIVES, Instruction, Program, Value, numbers

# Instructions that move no data: views, and the ends of what has been started.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota"}
# Matrix products of JAX's attention kernels for TPUs (models/splash_attention.py), into which XLA does not see. The
# second computes all gradients.
_KERNELS = {"splash_mha_fwd": 2, "splash_mha_dkv": 5}
_FREE |= {"partition-id", "replica-id", "after-all", "add-dependency", "opt-barrier"}


BETWEEN_SLICES = "between slices"


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind and one group of devices."""

    kind: str
    group: tuple[int, ...]  # the first group, by place in the mesh; of a permutation, one pair; between slices empty
    bytes: int  # of a run's result on each device, of a reduce-scatter its operand
    runs: int


def flops(program: Program) -> int:
    """Floating-point operations of matrix products and convolutions; a product and its sum are two."""
    return sum(times * _products(program, i) for i, times in program.executed(fused=True))


def _products(program: Program, i: Instruction) -> int:
    if i.opcode == "custom-call":
        return _attention(program, i)
    if i.opcode not in ("dot", "convolution"):
        return 0
    left, right = (program.values[name][0].shape for name in i.operands[:2])
    if i.opcode == "convolution":
        return _convolution(i, left, right)
    axes = numbers(i.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or "")
    return 2 * math.prod(i.values[0].shape) * math.prod(left[axis] for axis in axes)


def _attention(program: Program, i: Instruction) -> int:
    """FLOPs of a splash attention kernel, by its arrays [..., d, length] of queries and keys."""
    products = next((count for name, count in _KERNELS.items() if i.name.startswith(name)), 0)
    if not products:
        return 0
    operands = (program.values[name][0] for name in i.operands)
    queries, keys, *_ = (value.shape for value in operands if value.dtype in ("bf16", "f32"))  # after tables of blocks
    return 2 * products * math.prod(queries) * keys[-1]


def _convolution(i: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """FLOPs of a convolution: padding and the gaps of dilation are not counted, as they are never multiplied."""
    inputs, kernel, output = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes).groups()
    result = i.values[0].shape
    total = 2 * math.prod(result[output.index(label)] for label in "bf") * right[kernel.index("i")]
    spatial = sorted(label for label in output if label.isdigit())
    window = _window(i.attributes, len(spatial))
    for k, label in enumerate(spatial):
        sizes = (left[inputs.index(label)], right[kernel.index(label)], result[output.index(label)])
        total *= _pairs(*sizes, *(window[name][k] for name in ("stride", "pad", "lhs_dilate", "rhs_dilate")))
    return total


def _window(attributes: str, axes: int) -> dict[str, list[int]]:
    """Stride, lower padding and dilations of each axis."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    given = dict(part.split("=") for part in text[1].split()) if text else {}
    window = {}
    for name, usual in (("stride", 1), ("pad", 0), ("lhs_dilate", 1), ("rhs_dilate", 1)):
        parts = given[name].split("x") if name in given else [str(usual)] * axes
        window[name] = [int(part.partition("_")[0]) for part in parts]
    return window


def _pairs(size: int, taps: int, outputs: int, stride: int, pad: int, lhs_dilate: int, rhs_dilate: int) -> int:
    """Along an axis, the pairs of output and tap that meet an element of the input."""
    at = np.arange(outputs)[:, None] * stride + np.arange(taps) * rhs_dilate - pad
    return int(((at >= 0) & (at <= (size - 1) * lhs_dilate) & (at % lhs_dilate == 0)).sum())


def hbm_bytes(program: Program) -> int:
    """Bytes that instructions read and write outside of the chip's vector memory."""
    return sum(size * times for _, size, times in traffic(program))


def traffic(program: Program) -> Iterator[tuple[Instruction, int, int]]:
    """Every instruction that moves data, the bytes that one run of it reads and writes there, and its runs."""
    yield from ((i, _traffic(program, i), times) for i, times in program.executed() if i.opcode not in _FREE)


def _traffic(program: Program, i: Instruction) -> int:
    if i.opcode.endswith("-done") or i.name.startswith("async-collective-done"):
        return 0
    read = [value for name in _own_operands(i) for value in program.values.get(name, ())]
    if _is_slice(program, i):  # reads no more than it keeps
        return sum(value.nbytes * ((not read[0].on_chip) + (not value.on_chip)) for value in _written(i))
    return sum(value.nbytes for value in (*_written(i), *read) if not value.on_chip)


def _is_slice(program: Program, i: Instruction) -> bool:
    """Whether an instruction copies a part of an array, itself or as the start of a transfer behind other work."""
    if i.opcode == "async-start":
        return program.computations[i.attribute(r"calls=%?([\w.\-]+)")][-1].opcode == "slice"
    return i.opcode in ("slice", "dynamic-slice")


def _own_operands(i: Instruction) -> tuple[str, ...]:
    """What an instruction reads. A fusion behind which a collective goes on also passes the collective's arrays."""
    own = re.search(r'"operand_original_start":"(\d+)","operand_original_end":"(\d+)"', i.attributes)
    return i.operands[int(own[1]) : int(own[2]) + 1] if own else i.operands


def _written(i: Instruction) -> tuple[Value, ...]:
    """The arrays that an instruction writes; the result of a start names its operands too."""
    if own := re.search(r'"output_tuple_original_start":"(\d+)","output_tuple_original_end":"(\d+)"', i.attributes):
        return i.values[int(own[1]) : int(own[2]) + 1]
    if i.opcode == "copy-start":
        return i.values[:1]
    if 'custom_call_target="__cu' in i.attributes and len(i.values) > 1:  # the last is working memory of the library
        return i.values[:-1]
    if i.opcode in ("collective-permute-start", "async-start") or i.name.startswith("async-collective-start"):
        return i.values[1:2]
    return i.values[len(i.values) // 2 :] if i.opcode == "all-gather-start" else i.values


def collectives(program: Program) -> list[Collective]:
    """What devices exchange, by kind, group and size."""
    found: Counter[tuple[str, tuple[int, ...], int]] = Counter()
    channels = set()
    for name, times in program.runs.items():
        for i in program.computations[name]:
            # A collective that goes on behind several fusions is written in each of them, with one channel.
            channel = i.opcode, i.attribute(r"channel_id=(\d+)")
            if channel not in channels and (exchange := _exchange(name, i)):
                found[exchange] += times
                channels |= {channel} if channel[1] else set()
    return [Collective(*key, runs) for key, runs in sorted(found.items(), key=lambda item: -item[0][2] * item[1])]


def _exchange(computation: str, i: Instruction) -> tuple[str, tuple[int, ...], int] | None:
    """Kind, group and bytes of a collective; None for other instructions."""
    kind = i.opcode.removesuffix("-start")
    if kind == "send" and "xla_megascale_runtime" in i.attributes:  # what the hosts of all slices reduce
        return BETWEEN_SLICES, (), i.values[0].nbytes
    if kind not in COLLECTIVES or "source_target_pairs={}" in i.attributes:  # a permutation that moves nothing
        return None
    group, size = first_group(i.attributes), sum(value.nbytes for value in _written(i))
    if kind == "reduce-scatter":
        return kind, group, size * len(group)
    # An all-reduce of which each device keeps a part is done as a reduce-scatter.
    return "reduce-scatter" if computation.startswith("all-reduce-scatter") else kind, group, size


def relayouts(program: Program, smallest: int) -> list[Instruction]:
    """Transposes and copies of arrays of at least so many elements to another layout, within fusions too."""
    moves = (i for i, _ in program.executed(fused=True) if i.opcode in ("transpose", "copy"))
    return [i for i in moves if math.prod(i.values[0].shape) >= smallest]


def first_group(attributes: str) -> tuple[int, ...]:
    """The first group of devices in the attributes of a collective, in any of XLA's three notations."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return int(pairs[1]), int(pairs[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return tuple(numbers(listed[1]))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, reshaped = numbers(iota[1]), numbers(iota[2])
        ids = np.arange(math.prod(reshaped)).reshape(reshaped)
        return tuple(ids.transpose(numbers(iota[3]) if iota[3] else None).reshape(shape)[0].tolist())
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:[^{]*)\{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        within = set(re.findall(r"'(\w+)'", mesh[2]))
        ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        return tuple(ids[tuple(slice(None) if axis in within else 0 for axis in sizes)].ravel().tolist())
    raise ValueError(f"no group of devices in {attributes[:200]!r}")
