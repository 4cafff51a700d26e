"""Published and own data sets by the names that launch/prepare_data.py takes: how each is opened and downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rewardedit_jax.data.benchmark_pairs import BenchmarkPairs
from rewardedit_jax.data.encoded import Stored
from rewardedit_jax.data.gedit_bench import GEditBench
from rewardedit_jax.data.imgedit_bench import ImgEditBench
from rewardedit_jax.data.instruct_pix2pix import InstructPix2PixFolder, InstructPix2PixParquet, RewardEditFolder
from rewardedit_jax.data.magicbrush import MagicBrush
from rewardedit_jax.data.preferences import PreferenceFile, PreferenceParquet
from rewardedit_jax.data.preparing import EDITS, PAIRS, REQUESTS, Kind
from rewardedit_jax.data.real_edit import RealEdit
from rewardedit_jax.data.sharegpt_4o import ShareGPT4o
from rewardedit_jax.data.triplets import TripletFile


@dataclass(frozen=True)
class Options:
    """What some layouts need beside the source."""

    rewards: Path | None = None  # file of the rewards, of reward_edit
    images: Path | None = None  # folder that the paths of preferences are relative to; None: that of the list
    split: str = "train"  # of magicbrush
    allow_outside: bool = False  # of lists: images may lie outside their folder


@dataclass(frozen=True)
class Layout:
    """A layout of files."""

    title: str  # for the description of the prepared data set, and --help
    kind: Kind
    open: Callable[[Path, Options], Stored]  # the source, which keeps its bad entries as `faults`
    patterns: tuple[str, ...] = ("*",)  # files that a download of the hub gets


_AURORA = """expected:
  <root>/
    test.json   [{"input": "data/1.png", "output": "data/2.png", "instruction": "close it", "task": "something"}, ...]
    data/...    the images
GitHub: McGill-NLP/AURORA."""


def _open_rewards(root: Path, options: Options) -> Stored:
    if options.rewards is None:
        raise ValueError("reward_edit needs the file of the rewards: --rewards RewardEdit_20K.json")
    return RewardEditFolder(root, options.rewards, skip_bad=True)


def _open_aurora(root: Path, options: Options) -> Stored:
    listing = root / "test.json" if root.is_dir() else root
    if not listing.is_file():
        raise FileNotFoundError(f"no file {listing}; {_AURORA}")
    return _open_triplets(listing, options)


def _open_triplets(path: Path, options: Options) -> Stored:
    return TripletFile(path, skip_bad=True, allow_outside=options.allow_outside)


def _open_preferences(path: Path, options: Options) -> Stored:
    return PreferenceFile(path, options.images, skip_bad=True, allow_outside=options.allow_outside)


_PARQUET = ("*.parquet",)

LAYOUTS = {
    "instruct_pix2pix": Layout(
        "InstructPix2Pix, folders of pairs with seeds.json",
        EDITS,
        lambda root, _: InstructPix2PixFolder(root, skip_bad=True),
    ),
    "instruct_pix2pix_parquet": Layout(
        "InstructPix2Pix, parquet (timbrooks/instructpix2pix-clip-filtered)",
        EDITS,
        lambda root, _: InstructPix2PixParquet(root),
        _PARQUET,
    ),
    "reward_edit": Layout(
        "RewardEdit-20K: folders of InstructPix2Pix with the rewards of --rewards", EDITS, _open_rewards
    ),
    "magicbrush": Layout(
        "MagicBrush, parquet, turns kept (osunlp/MagicBrush)",
        EDITS,
        lambda root, options: MagicBrush(root, split=options.split, skip_bad=True),
        _PARQUET,
    ),
    "aurora": Layout("AURORA, test.json", EDITS, _open_aurora),
    "sharegpt_4o": Layout(
        "ShareGPT-4o-Image, edits (FreedomIntelligence/ShareGPT-4o-Image)",
        EDITS,
        lambda root, _: ShareGPT4o(root, skip_bad=True),
        ("text_and_image_to_image*",),
    ),
    "triplets": Layout("your own triplets, .json or .jsonl", EDITS, _open_triplets),
    "editreward_data": Layout(
        "EditReward-Data, parquet (TIGER-Lab/EditReward-Data)",
        PAIRS,
        lambda root, _: PreferenceParquet(root, skip_bad=True),
        _PARQUET,
    ),
    "editreward_bench": Layout(
        "EditReward-Bench, parquet (TIGER-Lab/EditReward-Bench)",
        PAIRS,
        lambda root, _: BenchmarkPairs(root, skip_bad=True),
        _PARQUET,
    ),
    "preferences": Layout("your own pairs with preferences, .json or .jsonl", PAIRS, _open_preferences),
    "real_edit": Layout(
        "Real-Edit: photographs and instructions (Gstar666/RewardEdit)",
        REQUESTS,
        lambda root, _: RealEdit(root, skip_bad=True),
        ("real_edit_instruct.json", "Real-Edit/*"),
    ),
    "gedit_bench": Layout(
        "GEdit-Bench, English and Chinese (stepfun-ai/GEdit-Bench)",
        REQUESTS,
        lambda root, _: GEditBench(root, skip_bad=True),
        ("*.arrow", "*.parquet"),
    ),
    "imgedit_bench": Layout(
        "ImgEdit-Bench, the basic set (GitHub: PKU-YuanGroup/ImgEdit)",
        REQUESTS,
        lambda root, _: ImgEditBench(root, skip_bad=True),
        ("basic_edit.json", "original_images/*"),
    ),
}
