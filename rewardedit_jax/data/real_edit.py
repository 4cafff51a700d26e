"""Real-Edit: 80 photographs with seven instructions each (Multi-Reward as Condition, arXiv:2411.04713, section 5)."""

import re
from pathlib import Path

from rewardedit_jax.data.encoded import EncodedRequest, RequestLabel, StoredRequests
from rewardedit_jax.data.images import image_bytes
from rewardedit_jax.data.json_files import convert, read_json, validate
from rewardedit_jax.data.paths import inside
from rewardedit_jax.data.records import raise_or_log

EDIT_TYPES = ("local", "remove", "add", "texture", "background", "global", "style")  # of instructions 1 to 7
_PREFIX = re.compile(rf"\s*(?:([1-7])\b|({'|'.join(EDIT_TYPES)})\b)", re.IGNORECASE)
_LIST, _PHOTOGRAPHS = "real_edit_instruct.json", "Real-Edit"
_LAYOUT = f"""expected:
  <root>/
    {_LIST}   {{"1.jpg": ["1. Local: Make the cup red.", ..., "7. Style: Make it a sketch."], ...}}
    {_PHOTOGRAPHS}/1.jpg ...
Hugging Face hub: Gstar666/RewardEdit."""


class RealEdit(StoredRequests):
    """Every instruction of every photograph is a request. Keys are "photograph/number of the instruction"."""

    def __init__(self, root: str | Path, *, skip_bad: bool = False):
        """Reads the list of instructions.

        Raises:
          FileNotFoundError: shows the expected layout.
          BadRecords: listing every malformed line and every path out of `root`, unless `skip_bad` leaves them out.
        """
        self.root = Path(root)
        if not (listing := self.root / _LIST).is_file():
            raise FileNotFoundError(f"no file {listing}; {_LAYOUT}")
        photographs, faults = validate(read_json(listing, dict).items(), list[str])
        lines = [
            (f"{found.name}/{number}", (found.name, line))
            for found in photographs
            for number, line in enumerate(found.value, 1)
        ]
        entries, malformed = validate(lines, tuple[str, str])
        self._requests, more = convert(entries, lambda entry: self._parsed(*entry.value))
        self.faults = raise_or_log(faults + malformed + more, str(listing), skip_bad)

    def __len__(self) -> int:
        return len(self._requests)

    def keys(self) -> list[str]:
        return [entry.name for entry in self._requests]

    def fingerprint_texts(self) -> list[str]:
        return [f"{entry.name}: {entry.value}" for entry in self._requests]

    def labels(self) -> list[RequestLabel]:
        return [RequestLabel(entry.name, *entry.value[1:]) for entry in self._requests]

    def encoded(self, index: int) -> EncodedRequest:
        _, key, (photograph, instruction, edit_type) = self._requests[index]
        file = self._file(photograph)
        return EncodedRequest(key, instruction, image_bytes(file), edit_type, name=str(file))

    def _file(self, photograph: str) -> Path:
        return inside(self.root / _PHOTOGRAPHS, photograph)

    def _parsed(self, photograph: str, line: str) -> tuple[str, str, str]:
        """The photograph, the instruction and its type. Raises ValueError for a line in another form."""
        self._file(photograph)
        # As the published evaluation (eval.py, `load_real_edit`): the text after the last ": ", the type before ".".
        prefix, _, instruction = line.rpartition(": ")
        found = _PREFIX.match(prefix)
        if not found or not instruction.strip():
            raise ValueError(f"{line!r}: expected a number from 1 to 7 or a type, then an instruction: '3. Add: a cat'")
        number, name = found.groups()
        return photograph, instruction.strip(), EDIT_TYPES[int(number) - 1] if number else name.lower()
