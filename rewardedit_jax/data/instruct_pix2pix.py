"""InstructPix2Pix's folders as they are published, and RewardEdit-20K on top of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from rewardedit_jax.data.bad_records import BadRecords, ReadingSource, settle
from rewardedit_jax.data.images import read_image
from rewardedit_jax.data.records import EditRecord

_EXPECTED = """expected:
  <root>/
    seeds.json          [["0000002", ["1234567", ...]], ...]  (not read for RewardEdit)
    0000002/
      prompt.json       {"edit": "make it snow"}
      1234567_0.jpg     source
      1234567_1.jpg     edited
  RewardEdit_20K.json   {"0000002": [{"Score": 4, "Negative Prompt": "..."}, ×3], ...}  (RewardEdit only)
Hugging Face hub: Gstar666/RewardEdit; timbrooks/instructpix2pix-clip-filtered (the pairs, as parquet)."""


class InstructPix2PixFolder(ReadingSource):
    """The clip-filtered folders: every (name, seed) of `seeds.json` is one record, in the order of the file.

    Where `prompt.json` holds several texts, record i takes number i modulo their count. (The published
    training draws one seed and one text of a name at random: there, names with many seeds weigh no more than
    others.)
    """

    def __init__(self, root: str | Path, *, skip_bad: bool = False):
        """Reads `seeds.json` and lists `root`, nothing else.

        Raises:
          FileNotFoundError: if `root` or its `seeds.json` is missing; tells the layout and where to get it.
          BadRecords: listing every malformed entry and every name without a folder, unless `skip_bad`.
        """
        super().__init__(skip_bad)
        self.root = Path(root)
        present, seeds = _folders(self.root), _read_index(self.root / "seeds.json")
        self._pairs, faults = [], []
        for i, entry in enumerate(seeds if isinstance(seeds, list) else [seeds]):
            if fault := _seeds_fault(entry, present):
                faults.append(f"entry {i} ({str(entry)[:60]}): {fault}")
            else:
                self._pairs += [(entry[0], str(seed)) for seed in entry[1]]
        settle(faults, str(self.root / "seeds.json"), skip_bad)

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, index: int) -> EditRecord:
        name, seed = self._pairs[index]
        return _read_pair(self.root / name, seed, f"{name}/{seed}", index)


def _seeds_fault(entry: Any, present: set[str]) -> str | None:
    match entry:
        case [str(name), [_, *_] as seeds] if all(isinstance(s, str | int) for s in seeds):
            return None if name in present else "no such folder"
    return "not [name, [seed, ...]]"


class RewardEditFolder(ReadingSource):
    """RewardEdit-20K: rewards of InstructPix2Pix folders in a JSON file. One record per name, in its order.

    The file does not name a seed. Of a folder with several pairs the first by name is taken, and the log says
    so.
    """

    def __init__(self, root: str | Path, rewards_json: str | Path, *, skip_bad: bool = False):
        """Args:
          root: the directory of the folders.
          rewards_json: `{name: [{"Score": 0..5, "Negative Prompt": text}, ×3]}`, in the order of
            perspectives.
        Raises:
          FileNotFoundError: if either is missing; tells the layout and where to get it.
          BadRecords: listing every malformed entry and every name without a folder, unless `skip_bad`.
        """
        super().__init__(skip_bad)
        self.root = Path(root)
        present, rewards = _folders(self.root), _read_index(Path(rewards_json))
        if not isinstance(rewards, dict):
            raise BadRecords(f"{rewards_json}: expected an object {{name: [...]}}, got {type(rewards).__name__}.")
        faults = {name: _reward_fault(reward, name in present) for name, reward in rewards.items()}
        settle([f"{name}: {fault}" for name, fault in faults.items() if fault], str(rewards_json), skip_bad)
        self._rewards = [(name, *_reward(rewards[name])) for name, fault in faults.items() if not fault]
        self._told_several = False

    def __len__(self) -> int:
        return len(self._rewards)

    def read(self, index: int) -> EditRecord:
        name, scores, feedback = self._rewards[index]
        return _read_pair(self.root / name, self._seed(name), name, index, scores, feedback)

    def _seed(self, name: str) -> str:
        seeds = sorted(path.name.removesuffix("_0.jpg") for path in (self.root / name).glob("*_0.jpg"))
        if not seeds:
            raise BadRecords(f"{self.root / name}: no <seed>_0.jpg.")
        if len(seeds) > 1 and not self._told_several:
            self._told_several = True
            logging.warning("%s has %d pairs, the first is taken (told once).", self.root / name, len(seeds))
        return seeds[0]


def _reward_fault(reward: Any, has_folder: bool) -> str | None:
    if not has_folder:
        return "no such folder"
    if not isinstance(reward, list) or len(reward) != 3:
        return "not a list of 3 perspectives"
    for part in reward:
        match part:
            case {"Score": int() | float() as score, "Negative Prompt": str()} if not isinstance(score, bool):
                if not 0 <= score <= 5:  # also catches NaN
                    return f"score {score} is outside 0..5"
            case _:
                return f"not {{'Score': number, 'Negative Prompt': text}}: {str(part)[:60]}"
    return None


def _reward(reward: Sequence[Mapping[str, Any]]) -> tuple[Float[np.ndarray, "3"], tuple[str, ...]]:
    scores = np.asarray([part["Score"] for part in reward], np.float32)
    return scores, tuple(part["Negative Prompt"] for part in reward)


def _read_pair(
    folder: Path,
    seed: str,
    key: str,
    index: int,
    scores: Float[np.ndarray, "3"] | None = None,
    feedback: tuple[str, ...] | None = None,
) -> EditRecord:
    source, edited = (np.asarray(read_image(folder / f"{seed}_{i}.jpg")) for i in (0, 1))
    return EditRecord(key, _instruction(folder / "prompt.json", index), source, edited, scores, feedback)


def _instruction(path: Path, index: int) -> str:
    try:
        prompt = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadRecords(f"{path} cannot be read: {error}") from error
    texts = prompt.get("edit") if isinstance(prompt, dict) else None
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadRecords(f"{path}: 'edit' is neither a text nor a list of texts.")
    return texts[index % len(texts)]


def _folders(root: Path) -> set[str]:
    if not root.is_dir():
        raise FileNotFoundError(f"no directory {root}; {_EXPECTED}")
    return {entry.name for entry in root.iterdir()}


def _read_index(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; {_EXPECTED}")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise BadRecords(f"{path} is not JSON: {error}") from error
