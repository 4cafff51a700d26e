"""MagicBrush: edits by people, in sessions of one to three turns (Zhang et al., NeurIPS 2023, arXiv:2306.10012).

Training and development sets are parquet files on the hub, the test set is a zip file of images and lists.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from rewardedit_jax.data.encoded import AskedEdits, EncodedEdit, RequestLabel
from rewardedit_jax.data.images import image_bytes
from rewardedit_jax.data.json_files import Entry, convert, read_json, validate
from rewardedit_jax.data.parquet import ParquetRows, embedded_bytes
from rewardedit_jax.data.paths import inside
from rewardedit_jax.data.records import Instruction, raise_or_log

_IMAGES = ("source_img", "target_img")
_LAYOUT = """expected:
  <root>/
    data/train-*.parquet   columns img_id, turn_index, instruction, source_img and target_img (each {bytes, path})
    data/dev-*.parquet     the same columns
Hugging Face hub: osunlp/MagicBrush."""


class _Turn(msgspec.Struct):
    """The columns without the images."""

    img_id: str  # of the session
    turn_index: Annotated[int, msgspec.Meta(ge=1)]
    instruction: Instruction


class MagicBrush(AskedEdits):
    """The turns of one split: sessions in the order of the files, and the turns of a session one after the other.

    The source of a turn is the edited image of the turn before. `extra` has "session" and "turn" (from 1). Keys are
    "row of all:session/turn".
    """

    def __init__(self, root: str | Path, *, split: str = "train", skip_bad: bool = False):
        """Reads all columns but the images.

        Args:
          root: a directory, or one file, which is read whatever its split.
        Raises:
          FileNotFoundError, BadRecords: as `ParquetRows`.
          BadRecords: listing every malformed row, unless `skip_bad` leaves them out.
        """
        columns = _Turn.__struct_fields__
        self._rows = ParquetRows(root, (*columns, *_IMAGES), _LAYOUT, f"{split}-*.parquet")
        named = ((self._rows.name(number), row) for number, row in enumerate(self._rows.only(columns)))
        entries, faults = validate(named, _Turn)
        self.faults = raise_or_log(faults, str(root), skip_bad)
        first: dict[str, int] = {}  # row of each session
        for entry in entries:
            first.setdefault(entry.value.img_id, entry.number)
        self._turns = sorted(entries, key=lambda entry: (first[entry.value.img_id], entry.value.turn_index))

    def __len__(self) -> int:
        return len(self._turns)

    def instructions(self) -> list[str]:
        """All instructions."""
        return [entry.value.instruction for entry in self._turns]

    def keys(self) -> list[str]:
        return [f"{number}:{turn.img_id}/{turn.turn_index}" for number, _, turn in self._turns]

    def labels(self) -> list[RequestLabel]:
        turns = (entry.value for entry in self._turns)
        return [
            _label(key, turn.instruction, turn.img_id, turn.turn_index)
            for key, turn in zip(self.keys(), turns, strict=True)
        ]

    def fingerprint_texts(self) -> list[str]:
        return [*self.keys(), *self.instructions()]

    def encoded(self, index: int) -> EncodedEdit:
        number, place, turn = self._turns[index]
        row, names = self._rows[number], tuple(f"{column} of {place}" for column in _IMAGES)
        images = (embedded_bytes(row[column], name) for column, name in zip(_IMAGES, names, strict=True))
        key, extra = f"{number}:{turn.img_id}/{turn.turn_index}", {"session": turn.img_id, "turn": turn.turn_index}
        return EncodedEdit(key, turn.instruction, *images, extra=extra, names=names)


SESSIONS = "edit_sessions.json"
_CAPTIONS = ("local_descriptions.json", "local_captions.json")  # of the target images, under either name
_FOLDER = f"""expected:
  <root>/
    {SESSIONS}   {{"139": [{{"input": "139-input.png", "output": "139-output1.png", "instruction": "..."}}], ...}}
    images/139/139-input.png, 139-output1.png ...
    {_CAPTIONS[0]}   optional: {{"139": {{"139-output1.png": "what it shows", ...}}, ...}}
The zip file that github.com/OSU-NLP-Group/MagicBrush links."""


class _SessionTurn(msgspec.Struct):
    input: str  # name of a file
    output: str
    instruction: Instruction


class MagicBrushFolder(AskedEdits):
    """The turns of the test set, in the order of its list. Keys are "session/turn"; `extra` may have a "caption"."""

    def __init__(self, root: str | Path, *, skip_bad: bool = False):
        """Reads the lists.

        Raises:
          FileNotFoundError: shows the expected layout.
          BadRecords: listing every malformed turn, unless `skip_bad` leaves them out.
        """
        self.root = Path(root)
        if not (listing := self.root / SESSIONS).is_file():
            raise FileNotFoundError(f"no file {listing}; {_FOLDER}")
        sessions, faults = validate(read_json(listing, dict).items(), list)
        turns = ((f"{s.name}/{number}", turn) for s in sessions for number, turn in enumerate(s.value, 1))
        entries, malformed = validate(turns, _SessionTurn)
        self._turns, outside = convert(entries, self._checked)
        self.faults = raise_or_log(faults + malformed + outside, str(listing), skip_bad)
        self._captions = _read_captions(self.root)

    def __len__(self) -> int:
        return len(self._turns)

    def keys(self) -> list[str]:
        return [entry.name for entry in self._turns]

    def labels(self) -> list[RequestLabel]:
        return [self._label(entry) for entry in self._turns]

    def fingerprint_texts(self) -> list[str]:
        return [f"{entry.name}: {entry.value.instruction}" for entry in self._turns]

    def encoded(self, index: int) -> EncodedEdit:
        entry = self._turns[index]
        label, files = self._label(entry), self._files(entry)
        return EncodedEdit(
            label.key, label.instruction, *map(image_bytes, files), extra=label.extra, names=tuple(map(str, files))
        )

    def _place(self, entry: Entry) -> tuple[str, int]:
        """The session and the turn."""
        session, _, turn = entry.name.rpartition("/")
        return session, int(turn)

    def _files(self, entry: Entry) -> tuple[Path, Path]:
        folder = inside(self.root / "images", self._place(entry)[0])
        return inside(folder, entry.value.input), inside(folder, entry.value.output)

    def _checked(self, entry: Entry) -> _SessionTurn:
        self._files(entry)
        return entry.value

    def _label(self, entry: Entry) -> RequestLabel:
        session, turn = self._place(entry)
        caption = self._captions.get(session, {}).get(entry.value.output)
        return _label(entry.name, entry.value.instruction, session, turn, caption)


def _read_captions(root: Path) -> dict[str, dict[str, str]]:
    file = next((root / name for name in _CAPTIONS if (root / name).is_file()), None)
    return {} if file is None else read_json(file, dict[str, dict[str, str]])


def _label(key: str, instruction: str, session: str, turn: int, caption: str | None = None) -> RequestLabel:
    extra: Mapping[str, str | int] = {"session": session, "turn": turn, "input": f"{session} {turn}"}
    return RequestLabel(key, instruction, f"turn {turn}", extra | ({"caption": caption} if caption else {}))
