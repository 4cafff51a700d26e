"""Write the reference editor as a pipeline directory, its weights drawn by name.

  python tests/references/editor_a/make_editor_dir.py tests/references/editor_a/editor_a.json DIR

The JSON file holds every configuration, the tokenizer, and for each network a seed with the names and shapes of its
tensors. The weights follow from these alone, so no weight file is stored. PyTorch diffusers loads the directory.
"""

import argparse
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The tensor of this name: float32, the same on every machine up to the last bit of libm."""
    x = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    if name.rsplit(".", 1)[-1] == "bias":
        return np.float32(0.05) * x
    if len(shape) == 1:
        return np.float32(1) + np.float32(0.1) * x
    return x / np.float32(math.sqrt(math.prod(shape[1:])))


def network_tensors(network: dict[str, Any]) -> dict[str, np.ndarray]:
    """All tensors of one network.

    Raises:
      ValueError: if their number or absolute sum differs from the stored checksum.
    """
    tensors = {name: draw(name, tuple(shape), network["seed"]) for name, shape in network["state_dict"].items()}
    count = sum(t.size for t in tensors.values())
    total = sum(float(np.abs(t.astype(np.float64)).sum()) for t in tensors.values())
    expected = network["checksum"]
    if count != expected["count"] or abs(total - expected["sum_abs"]) > 1e-6 * expected["sum_abs"]:
        raise ValueError(f"drawn weights: {count} values, sum |x| {total!r}; expected {expected}")
    return tensors


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_editor_dir(described: dict[str, Any], directory: str | Path) -> None:
    """`described`: the parsed editor_a.json. `directory` is made if it is missing."""
    directory, tokenizer = Path(directory), described["tokenizer"]
    for folder, network in described["networks"].items():
        write_json(directory / folder / "config.json", network["config"])
        save_file(network_tensors(network), directory / folder / network["weights_file"], metadata={"format": "pt"})
    for name in ("vocab", "tokenizer_config", "special_tokens_map"):
        write_json(directory / "tokenizer" / f"{name}.json", tokenizer[name])
    merges = "\n".join(["#version: 0.2", *tokenizer["merges"], ""])
    (directory / "tokenizer" / "merges.txt").write_text(merges, "utf-8")
    write_json(directory / "scheduler" / "scheduler_config.json", described["scheduler"])
    write_json(directory / "model_index.json", described["model_index"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("description", type=Path, help="editor_a.json")
    parser.add_argument("directory", type=Path, help="to write")
    arguments = parser.parse_args()
    write_editor_dir(json.loads(arguments.description.read_text("utf-8")), arguments.directory)
