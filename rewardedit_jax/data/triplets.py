"""Triplets from a list file: a user's own images, or published lists such as AURORA's `test.json`.

One object per triplet, in a JSON list or one per line (`.jsonl`):

    {"input": "images/1.png", "output": "images/1_edited.png", "instruction": "make it snow",
     "scores": [4, 5, 3.5], "feedback": ["None", "None", "the sky is grey"]}

`scores` (0..5) and `feedback` are in the order following, preserving, quality; a triplet has both or neither. `task`,
the type of the edit, may follow. Other keys are ignored. Image paths are relative to the folder of the file, and stay
within it unless `allow_outside` is set.
"""

from pathlib import Path

import msgspec

from rewardedit_jax.data.encoded import AskedEdits, EncodedEdit, RequestLabel
from rewardedit_jax.data.images import image_bytes
from rewardedit_jax.data.json_files import Entry, convert, read_list
from rewardedit_jax.data.paths import inside
from rewardedit_jax.data.records import Instruction, Score, raise_or_log


class _Triplet(msgspec.Struct):
    input: str
    output: str
    instruction: Instruction
    scores: tuple[Score, Score, Score] | None = None
    feedback: tuple[str, str, str] | None = None
    task: str = ""  # the type of edit, as AURORA's list names it

    def __post_init__(self):
        # An invented score or text would be trained on.
        if (self.scores is None) != (self.feedback is None):
            missing = "scores" if self.scores is None else "feedback"
            raise ValueError(f"no {missing}; expected both scores and feedback, or neither")


class TripletFile(AskedEdits):
    """The triplets of a `.json` or `.jsonl` file, in its order. Keys are "number in the file:output"."""

    def __init__(self, path: str | Path, *, skip_bad: bool = False, allow_outside: bool = False):
        """Reads the file; images are read at access. Malformed triplets are `BadRecords`, or left out.

        Args:
          allow_outside: whether images may lie outside the folder of the file (`paths.inside`).
        """
        self.path, self._allow_outside = Path(path), allow_outside
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {path}; expected:\n{__doc__.partition('    {')[2]}")
        entries, faults = read_list(path, _Triplet)
        self._triplets, outside = convert(entries, self._checked)
        self.faults = raise_or_log(faults + outside, str(path), skip_bad)

    def __len__(self) -> int:
        return len(self._triplets)

    def instructions(self) -> list[str]:
        """All instructions."""
        return [triplet.instruction for _, _, triplet in self._triplets]

    def fingerprint_texts(self) -> list[str]:
        return [*self.keys(), *self.instructions()]

    def keys(self) -> list[str]:
        return [self._key(number, triplet) for number, _, triplet in self._triplets]

    def labels(self) -> list[RequestLabel]:
        return [
            RequestLabel(self._key(number, triplet), triplet.instruction, triplet.task, {"input": triplet.input})
            for number, _, triplet in self._triplets
        ]

    def encoded(self, index: int) -> EncodedEdit:
        number, _, triplet = self._triplets[index]
        files = self._files(triplet)
        reward, extra = (triplet.scores, triplet.feedback), {"task": triplet.task} if triplet.task else {}
        images, names = map(image_bytes, files), tuple(map(str, files))
        return EncodedEdit(self._key(number, triplet), triplet.instruction, *images, *reward, extra, names)

    @staticmethod
    def _key(number: int, triplet: _Triplet) -> str:
        # The number, because several triplets may share an output.
        return f"{number}:{triplet.output}"

    def _files(self, triplet: _Triplet) -> list[Path]:
        names = (triplet.input, triplet.output)
        return [inside(self.path.parent, name, allow_outside=self._allow_outside) for name in names]

    def _checked(self, entry: Entry) -> _Triplet:
        self._files(entry.value)
        return entry.value
