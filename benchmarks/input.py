"""The input pipeline alone, beside a PyTorch DataLoader with Pillow on the same files: samples per second per core.

  python benchmarks/input.py

A sample is a pair of 256 px JPEG files, mirrored at random; texts are tokenised on neither side. "prepared" reads the
pairs from a prepared data set, "cache" reads what Stable Diffusion 1.5's frozen networks make of them (bfloat16; the
numbers are random, which changes no time). Everything runs in one process without workers, so that nobody pays for
transport between processes. The rate is by CPU time, all threads included, because other programs share the machine.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from networks import make_base
from PIL import Image

from rewardedit_jax.data.pipeline import edit_batches
from rewardedit_jax.data.prepared import PreparedEdits
from rewardedit_jax.data.preparing import prepare_edits
from rewardedit_jax.data.shards import StoredRow
from rewardedit_jax.data.triplets import TripletFile
from rewardedit_jax.editing.cache_layout import CacheLayout
from rewardedit_jax.editing.cached_examples import INDEX, CachedExamples, cache_shards, shared_file
from rewardedit_jax.params import abstract_params
from rewardedit_jax.startup import start_quickly

SIDE, BATCH, QUALITY, RECORDS = 256, 32, 90, 20_000
ORDER = {"batch_size": BATCH, "seed": 0, "threads": 0}  # 0: the calling thread reads


def photograph(rng: np.random.Generator) -> Image.Image:
    """A picture with about the detail of a photograph: smooth noise of several scales, edges and grain."""
    picture = np.zeros((SIDE, SIDE, 3), np.float32)
    for side in (4, 16, 64):
        small = rng.integers(0, 256, (side, side, 3), np.uint8)
        picture += np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / side
    picture *= 200 / picture.max()
    for _ in range(4):
        top, left = rng.integers(0, SIDE // 2, 2)
        picture[top : top + 80, left : left + 80] += rng.uniform(-50, 50, 3)
    return Image.fromarray(np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8))


def write_pairs(folder: Path, pairs: int) -> Path:
    """A list file of triplets with JPEG images."""
    rng, lines = np.random.default_rng(0), []
    for i in range(pairs):
        names = {name: f"{i:04d}_{name}.jpg" for name in ("input", "output")}
        for name in names.values():
            photograph(rng).save(folder / name, quality=QUALITY)
        lines.append(json.dumps({**names, "instruction": f"make it look like picture {i}"}))
    (folder / "list.jsonl").write_text("\n".join(lines))
    return folder / "list.jsonl"


class Repeated:
    """Records over and over, as many as RewardEdit-20K has: shuffling few records takes grain longer."""

    def __init__(self, records: Any):
        self.records = records

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> Any:
        return self.records[index % len(self.records)]


def data_loader(listing: Path) -> Iterator[Any]:
    """Batches of a PyTorch DataLoader without end, as InstructPix2Pix trains on them: float32 in [-1, 1]."""
    import torch  # of the extra "oracle"; documents are checked without it

    torch.set_num_threads(1)
    lines, rng = [json.loads(line) for line in listing.read_text().splitlines()], np.random.default_rng(0)

    class Pairs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(lines)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            mirror = rng.random() < 0.5
            return tuple(tensor(listing.parent / lines[index][name], mirror) for name in ("input", "output"))

    def tensor(file: Path, mirror: bool) -> torch.Tensor:
        image = Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        if mirror:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return (2 * torch.tensor(np.array(image)).float() / 255 - 1).permute(2, 0, 1)

    loader = torch.utils.data.DataLoader(Repeated(Pairs()), BATCH, shuffle=True, num_workers=0)
    while True:
        yield from loader


def prepared(listing: Path, folder: Path) -> PreparedEdits:
    preparation = prepare_edits(TripletFile(listing), folder, "pairs", "Pairs of a benchmark.")
    preparation.run()
    preparation.finish()
    return PreparedEdits(folder)


def cached(folder: Path, records: int) -> CachedExamples:
    """A cache of Stable Diffusion 1.5 with the reward recipe, of random numbers."""
    base = make_base("full", "float32")
    params = {name: abstract_params(getattr(base, name)) for name in base.precomputing}
    layout = CacheLayout.of(base, params, SIDE, flip=True, dtype="bfloat16")
    size = layout.views * layout.images.nbytes + layout.request.nbytes
    print(f"a cached record has {size:,} bytes")
    folder.mkdir()
    rng, shards = np.random.default_rng(0), cache_shards(folder, records, BATCH)
    shards.write(lambda i: StoredRow(rng.bytes(size), dict(zip(INDEX, (i, str(i), ""), strict=True))), {})
    shared_file(folder).write_bytes(bytes(layout.shared.nbytes))
    examples = CachedExamples(shards, layout)
    examples._rows = np.resize(examples._rows, RECORDS)  # over and over, as `Repeated`
    return examples


def rate(batches: Iterator[Any], count: int) -> float:
    """Samples per second of CPU time, over `count` batches."""
    begin = time.process_time()
    for batch in islice(batches, count):
        assert len(jax.tree.leaves(batch)[0]) == BATCH
    return count * BATCH / (time.process_time() - begin)


def measure(pairs: int, rounds: int, batches: Sequence[int]) -> dict[str, list[float]]:
    """Rates by pipeline, one per round; the pipelines take turns.

    Args:
      batches: of a round, of the loader and the prepared data, and of the cache.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "files").mkdir()
        listing = write_pairs(folder / "files", pairs)
        edits = prepared(listing, folder / "prepared")
        read: Callable[..., None] = lambda *request: None  # noqa: E731
        settings = {"flip": True, "skip_bad": False, **ORDER}
        pipelines = {
            "DataLoader": (data_loader(listing), batches[0]),
            "prepared": (edit_batches(Repeated(edits), read, resolution=SIDE, **settings), batches[0]),
            "cache": (cached(folder / "cache", pairs).batches(**settings), batches[1]),
        }
        rates = {name: [] for name in pipelines}
        for round_ in range(rounds + 1):
            for name, (iterator, count) in pipelines.items():
                found = rate(iterator, count)
                if round_:  # the first one opens files
                    rates[name].append(found)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    a = parser.parse_args()
    start_quickly()  # as a training does
    rates = measure(a.pairs, a.rounds, (16, 160))
    print(f"{'':12}{'samples/s/core':>16}{'times the loader':>18}")
    for name, values in rates.items():
        # Of one round, whose pipelines ran within seconds of each other.
        ratios = [value / peer for value, peer in zip(values, rates["DataLoader"], strict=True)]
        print(f"{name:12}{statistics.median(values):16,.0f}{statistics.median(ratios):18.2f}")


if __name__ == "__main__":
    main()
