"""The training step of a recipe, compiled for a slice of TPUs without a TPU: memory, FLOPs, collectives, least time.

  pip install 'rewardedit_jax[tpu]'
  python benchmarks/tpu_pod.py --config configs/reward_ip2p.py --topology v5e:16x16 --examples 4
  python benchmarks/tpu_pod.py --config configs/edit_reward.py --topology v5p:4x4x4 --examples 1
  python benchmarks/tpu_pod.py --config configs/edit_reward.py --topology v5e:16x16 --estimate   # not compiled
  python benchmarks/tpu_pod.py --table DIR

The step is the trainer's own; data, weights and TPUs are not needed, as only shapes and types are. If it does not fit,
other meshes are tried. Compilation takes minutes of one core. With --json FILE the result is kept, and --table DIR
prints the table of docs/scaling.md from such files. The roofline and its assumptions are in benchmarks/tpu_chips.py;
nothing is run, and no time here is measured.
"""

import argparse
import json
import os
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Before JAX is imported: this process has no TPU, and does not ask the cloud's metadata server which it has.
# Nor does it hold one, so that several such processes may load libtpu.
os.environ.update(TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu", ALLOW_MULTIPLE_LIBTPU_LOAD="1")

import jax
from abstract_step import AbstractStep, IndivisibleParameters
from jax.sharding import Mesh
from ml_collections import ConfigDict
from program_costs import Collective
from tpu_chips import CHIPS, GIB, Chip, Place, Roofline, roofline
from tpu_step import TooLarge, lower_step, measure, memory_limit, other_meshes, places_of, tpu_devices

from rewardedit_jax.sharding import batch_parts, make_mesh
from rewardedit_jax.training.recipe import read_recipe


def roofline_of(result: dict[str, Any]) -> Roofline:
    places = [Place(of_slice, tuple(coords)) for of_slice, coords in result["places"]]
    collectives = [Collective(**{**one, "group": tuple(one["group"])}) for one in result["collectives"]]
    chip = CHIPS[result["topology"].partition(":")[0]]
    return roofline(chip, result["flops"], result["hbm_bytes"], collectives, places)


def first_fit(
    config: ConfigDict, topology: str, slices: int, examples: int | None, hlo: Path | None = None
) -> dict[str, Any] | None:
    """The numbers of the first mesh that the step fits; says which do not fit.

    Args:
      examples: of a micro-batch for each part of the batch; None: the recipe's, over all of them.
      hlo: file to write the compiled program to.
    """
    devices, too_few = tpu_devices(topology, slices), 0
    for sizes in other_meshes(config, len(devices)):
        mesh = make_mesh(**sizes, devices=devices)
        if mesh.shape["fsdp"] <= too_few:  # it was too large in smaller parts
            continue
        config.mesh.update(sizes)
        if examples:
            config.batch_size = examples * batch_parts(mesh)
        try:
            return measure(config, topology, slices, hlo)
        except TooLarge as error:
            too_few = mesh.shape["fsdp"]
            print(f"{shape_of(mesh.shape)} does not fit: {_of_limit(error.needed, mesh)}", flush=True)
        except IndivisibleParameters as error:
            print(f"{shape_of(mesh.shape)} is refused: {_first_lines(error)}", flush=True)
    print("No mesh of these chips fits: take more chips, fewer examples for each, or chips with more memory.")
    return None


def estimate(config: ConfigDict, topology: str, slices: int, examples: int | None) -> Iterator[str]:
    """What is known before compilation: memory that every step needs, for each mesh, and the time of the first."""
    devices, found = tpu_devices(topology, slices), False
    for sizes in other_meshes(config, len(devices)):
        config.mesh.update(sizes)
        mesh = make_mesh(**sizes, devices=devices)
        try:
            least = AbstractStep.of(config, mesh).least_memory()
        except IndivisibleParameters as error:
            yield f"{shape_of(mesh.shape)} is refused: {_first_lines(error)}"
            continue
        yield f"{shape_of(mesh.shape)} needs more than {_of_limit(least, mesh)}"
        if least < memory_limit(mesh) and not found:
            found = True
            if examples:
                config.batch_size = examples * batch_parts(mesh)
            yield from _least_times(config, mesh, CHIPS[topology.partition(":")[0]])


def _least_times(config: ConfigDict, mesh: Mesh, chip: Chip) -> Iterator[str]:
    """Of a step that is lowered only: products, and gradients that are reduced over all chips, behind each other."""
    # A lowered program is that of all chips, and runs each loop once.
    products = lower_step(config, mesh).cost_analysis()["flops"] * config.accumulate / mesh.size
    gradients = sum(x.size * 4 for x in jax.tree.leaves(AbstractStep.of(config, mesh).state.params))
    everywhere = Collective("all-reduce", tuple(range(mesh.size)), gradients, 1)
    line = roofline(chip, products, 0, [everywhere], places_of(mesh))
    yield f"  {products / 1e12:.1f} TFLOP on each chip for {config.batch_size * config.accumulate} examples"
    times = f"products {1000 * line.compute:.1f} ms, gradients {1000 * line.collectives:.1f} ms"
    yield f"  least times: {times} for {gradients / 1e9:.2f} GB"
    yield f"  efficiency {line.efficiency[0]:.0%} against one chip if no communication is hidden"


def shape_of(mesh: Mapping[str, int]) -> str:
    return " × ".join(f"{axis}={size}" for axis, size in mesh.items())


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])


def _of_limit(needed: float, mesh: Mesh) -> str:
    return f"{needed / GIB:.1f} of {memory_limit(mesh) / GIB:.0f} GiB on each chip"


def describe(result: dict[str, Any]) -> Iterator[str]:
    """The lines that are printed for a compiled step."""
    memory, line, chip = result["memory"], roofline_of(result), CHIPS[result["topology"].partition(":")[0]]
    yield f"{result['chips']} chips of {result['topology']} in {result['slices']} slice(s), {shape_of(result['mesh'])}"
    yield f"examples     {result['examples']} a step, in {result['accumulate']} micro-batch(es)"
    parts = (f"{name} {memory[name] / GIB:.2f}" for name in memory)
    yield f"memory       {', '.join(parts)} of {chip.hbm / GIB:.0f} GiB: it fits"
    yield f"products     {result['flops'] / 1e12:.2f} TFLOP"
    yield f"HBM traffic  {result['hbm_bytes'] / 1e9:.1f} GB"
    for kind, (runs, size) in by_kind(result).items():
        yield f"{kind:18} {runs} runs, {size / 1e6:.1f} MB"
    for loop in result["loops_counted_once"]:
        yield f"the trip count of {loop} is unknown: it is counted once"
    yield f"least times  compute {line.compute:.4f} s, HBM {line.hbm:.4f} s, collectives {line.collectives:.4f} s"
    low, high = line.efficiency
    yield f"efficiency   {low:.0%} against one chip if no communication is hidden, {high:.0%} if all is"


def by_kind(result: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(runs, bytes) of each kind of collective."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in result["collectives"]:
        found[one["kind"]][0] += one["runs"]
        found[one["kind"]][1] += one["runs"] * one["bytes"]
    return {kind: (runs, size) for kind, (runs, size) in found.items()}


def table(directory: Path) -> Iterator[str]:
    """The results in a folder as a table in Markdown, one row for each file."""
    yield "| step | chips | mesh | GiB | TFLOP | HBM GB | sent MB | least ms: compute, HBM, network | efficiency |"
    yield "|---|---|---|---|---|---|---|---|---|"
    results = [json.loads(file.read_text()) for file in directory.glob("*.json")]
    for one in sorted(results, key=lambda one: (one["title"], one["topology"][:3], one["chips"])):
        line, moved = roofline_of(one), sum(size for _, size in by_kind(one).values())
        slices = f"{one['slices']} × " if one["slices"] > 1 else ""
        mesh = "·".join(str(size) for size in one["mesh"].values())
        times = ", ".join(f"{1000 * seconds:.1f}" for seconds in line)
        low, high = line.efficiency
        yield (
            f"| {one['title']} | {slices}{one['topology']} | {mesh} | {one['memory']['total'] / GIB:.1f} | "
            f"{one['flops'] / 1e12:.2f} | {one['hbm_bytes'] / 1e9:.0f} | {moved / 1e6:.0f} | {times} | "
            f"{low:.0%} to {high:.0%} |"
        )


def main() -> None:
    # As Ctrl-C: the compiler's process, which is large, ends with this one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="recipe; further arguments have the form --config.field=value")
    parser.add_argument("--topology", default="v5e:16x16", help="chips and shape of a slice (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=1, help="slices of this shape (default: %(default)s)")
    parser.add_argument("--examples", type=int, help="examples of a micro-batch for each part of the batch")
    parser.add_argument("--estimate", action="store_true", help="least memory and time, without compiling")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write the numbers to")
    parser.add_argument("--hlo", type=Path, metavar="FILE", help="file to write the compiled program to")
    parser.add_argument("--table", type=Path, metavar="DIR", help="print the table of the files in a folder")
    a, overrides = parser.parse_known_args()
    if a.table:
        print("\n".join(table(a.table)))
        return
    if not a.config:
        parser.error("expected --config or --table")
    config = read_recipe(a.config, overrides)
    if a.estimate:
        for line in estimate(config, a.topology, a.slices, a.examples):
            print(line, flush=True)
        return
    result = first_fit(config, a.topology, a.slices, a.examples, a.hlo)
    if result is None:
        raise SystemExit(1)
    print("\n".join(describe(result)))
    if a.json:
        title = " ".join([Path(a.config).name, *(word.removeprefix("--config.") for word in overrides)])
        a.json.write_text(json.dumps({"title": title, **result}))


if __name__ == "__main__":
    main()
