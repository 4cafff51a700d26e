"""Everything that has to be measured on an accelerator, in one command: results as JSON, and one table.

  python benchmarks/device.py                         # all parts: nine minutes on one GPU
  python benchmarks/device.py --parts parity,attention --out runs/device
  python benchmarks/device.py --small                 # tiny networks, to check that everything runs
  python benchmarks/device.py --list

Writes one JSON file per part and table.md. A part that is complete in the output folder is not run again. On an
accelerator each part is a process of its own, which ends with its memory: a part that fails or hangs takes no other
with it, and what it had measured stays. Without an accelerator everything is small and runs in this process.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from reporting import environment, markdown, share_memory, size_of_run
from timing import Row

from rewardedit_jax.startup import start_quickly


class Part(NamedTuple):
    module: str  # whose `rows` measures
    seconds: int  # on an accelerator, after which no further case is begun
    about: str


# In the order of what is worth most, should the time end early.
PARTS = {
    "parity": Part("parity", 90, "networks against the reference outputs, float32 with and without TF32, bfloat16"),
    "attention": Part("attention", 75, "kernels of attention: error and time, forward and with gradients"),
    "train_step": Part("train_step", 180, "training steps at SD 1.5's size, samples/s, MFU, PyTorch, growing batches"),
    "edit_latency": Part("edit_latency", 70, "edits of 512 px, 30 steps, three branches, beside diffusers"),
    "scoring": Part("scoring", 45, "scores at 448 px with the widths of Qwen2.5-VL-7B"),
    "startup": Part("startup", 70, "a process up to its first edit, with and without compiled programs on disk"),
}
_GRACE = 60  # seconds beyond which a process is ended in the middle of a case


def result_file(out: Path, part: str) -> Path:
    return out / f"{part}.json"


def read_result(out: Path, part: str) -> dict[str, Any] | None:
    file = result_file(out, part)
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def is_complete(out: Path, part: str) -> bool:
    return bool((read_result(out, part) or {}).get("complete"))


def measure(part: str, size: str, out: Path, commit: str) -> None:
    """Runs a part and writes its file after every row, so that nothing measured is lost."""
    result = {"part": part, "size": size, "environment": environment(commit), "complete": False, "rows": []}
    begin = time.monotonic()

    def write() -> None:
        result["seconds"] = round(time.monotonic() - begin, 1)
        half = result_file(out, part).with_suffix(".half")
        half.write_text(json.dumps(result, indent=1), "utf-8")
        half.replace(result_file(out, part))

    for row in _until(importlib.import_module(PARTS[part].module).rows(size), begin + PARTS[part].seconds, size):
        result["rows"].append(asdict(row))
        print(f"{time.monotonic() - begin:6.1f} s  {row.case}", flush=True)
        write()
    result["complete"] = True
    write()


def _until(rows: Iterator[Row], end: float, size: str) -> Iterator[Row]:
    """The rows that begin before `end`, and a note if there were more."""
    for row in rows:
        yield row
        if size == "full" and time.monotonic() > end:
            yield Row("further cases", note="the time of this part was over")
            return


def measure_apart(part: str, out: Path, commit: str) -> None:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--parts", part, "--out", str(out), "--commit", commit, "--here"]
    subprocess.run(command, timeout=PARTS[part].seconds + _GRACE, check=True)


def table(out: Path) -> str:
    """All results as one document."""
    results = [result for part in PARTS if (result := read_result(out, part))]
    lines = ["# Measured on a device", ""]
    for result in results:
        where = result["environment"]
        lines += [f"## {result['part']}", "", PARTS[result["part"]].about, ""]
        state = "" if result["complete"] else ", incomplete"
        lines += [f"{where['device']}, {where['date']}, {result['size']}, {result['seconds']} s{state}", ""]
        lines += [markdown([Row(**row) for row in result["rows"]]), ""]
    if results:
        lines += ["## Where", "", *(f"- {k}: {_flat(v)}" for k, v in results[0]["environment"].items()), ""]
    return "\n".join(lines)


def _flat(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def run(parts: Sequence[str], size: str, out: Path, commit: str, apart: bool) -> list[str]:
    """Measures what is not complete; returns the parts that failed."""
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for part in parts:
        if is_complete(out, part):
            print(f"{part}: complete in {out}")
            continue
        print(f"{part}: {PARTS[part].about}", flush=True)
        try:
            if apart:
                measure_apart(part, out, commit)
            else:
                measure(part, size, out, commit)
        except (Exception, subprocess.SubprocessError) as error:  # the other parts are worth as much
            print(f"{part} FAILED: {type(error).__name__}: {str(error)[:2000]}", flush=True)
            failed.append(part)
        (out / "table.md").write_text(table(out), "utf-8")
    return failed


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "runs/device")), help="default: %(default)s")
    p.add_argument("--parts", default=",".join(PARTS), help="names with commas between them (default: all)")
    p.add_argument("--small", action="store_true", help="tiny networks (default: where there is no accelerator)")
    p.add_argument("--commit", default="", help="what is measured, where there is no git repository")
    p.add_argument("--here", action="store_true", help="in this process, also on an accelerator")
    p.add_argument("--list", action="store_true", help="print the parts and stop")
    a = p.parse_args()
    parts = a.parts.split(",")
    if unknown := set(parts) - PARTS.keys():
        p.error(f"--parts: unknown {', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    if a.list:
        for part in parts:
            print(f"{part:13}{'complete' if is_complete(a.out, part) else '':10}{PARTS[part].about}")
        return
    share_memory()  # the processes of parts inherit this
    start_quickly()
    size = size_of_run(a.small, "tiny")
    failed = run(parts, size, a.out, a.commit, apart=size == "full" and not a.here)
    print((a.out / "table.md").read_text("utf-8"))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the same command runs them again")


if __name__ == "__main__":
    main()
