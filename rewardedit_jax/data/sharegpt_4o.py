"""ShareGPT-4o-Image: edits by GPT-4o (Chen et al., arXiv:2506.18095). Its text-to-image part is not read."""

import tarfile
from pathlib import Path
from posixpath import normpath
from typing import NamedTuple

import msgspec

from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits
from rewardedit_jax.data.images import image_bytes, image_errors
from rewardedit_jax.data.json_files import Entry, convert, read_list
from rewardedit_jax.data.paths import inside
from rewardedit_jax.data.records import BadRecords, Instruction, raise_or_log

_LIST = "text_and_image_to_image.json"
_LAYOUT = f"""expected:
  <root>/
    {_LIST}
        [{{"input_prompt": "make it snow", "input_image": ["image/1.png"], "output_image": "image/2.png"}}, ...]
    text_and_image_to_image_part_*.tar, or instead of them what they hold: image/*.png
Hugging Face hub: FreedomIntelligence/ShareGPT-4o-Image."""


class _Edit(msgspec.Struct):
    input_prompt: Instruction
    input_image: list[str]
    output_image: str


class _Member(NamedTuple):
    """A file in an archive."""

    archive: Path
    start: int  # byte
    size: int


class ShareGPT4o(StoredEdits):
    """The edits with one input image, in the order of the list. Keys are "number in the list:output_image".

    Images are read from the archives without unpacking them.
    """

    def __init__(self, root: str | Path, *, skip_bad: bool = False):
        """Reads the list and the directories of the archives.

        Raises:
          FileNotFoundError: shows the expected layout.
          BadRecords: listing every malformed edit, every one with several input images and every path that leads out
            of `root`, unless `skip_bad` leaves them out.
        """
        self.root = Path(root)
        if not (listing := self.root / _LIST).is_file():
            raise FileNotFoundError(f"no file {listing}; {_LAYOUT}")
        entries, faults = read_list(listing, _Edit)
        self._edits, more = convert(entries, self._checked)
        self.faults = raise_or_log(faults + more, str(listing), skip_bad)
        archives = sorted(self.root.glob("text_and_image_to_image_part_*.tar"))
        self._members = {name: member for archive in archives for name, member in _members(archive)}

    def __len__(self) -> int:
        return len(self._edits)

    def instructions(self) -> list[str]:
        """All instructions."""
        return [entry.value.input_prompt for entry in self._edits]

    def keys(self) -> list[str]:
        return [f"{number}:{edit.output_image}" for number, _, edit in self._edits]

    def fingerprint_texts(self) -> list[str]:
        return [*self.keys(), *self.instructions()]

    def encoded(self, index: int) -> EncodedEdit:
        number, _, edit = self._edits[index]
        names = (*edit.input_image, edit.output_image)
        images, files = map(self._image, names), tuple(str(self.root / name) for name in names)
        return EncodedEdit(f"{number}:{edit.output_image}", edit.input_prompt, *images, names=files)

    def _checked(self, entry: Entry) -> _Edit:
        if (count := len(entry.value.input_image)) != 1:
            raise ValueError(f"input_image has {count} images: expected the one that is edited")
        for name in (*entry.value.input_image, entry.value.output_image):
            inside(self.root, name)
        return entry.value

    def _image(self, name: str) -> bytes:
        member = self._members.get(normpath(name))
        if member is None:
            return image_bytes(inside(self.root, name))
        with image_errors(f"{name} in {member.archive}"), member.archive.open("rb") as archive:
            archive.seek(member.start)
            return archive.read(member.size)


def _members(archive: Path) -> list[tuple[str, _Member]]:
    """The files of an archive, by name; their contents are not read."""
    try:
        with tarfile.open(archive, "r:") as opened:
            return [
                (normpath(found.name), _Member(archive, found.offset_data, found.size))
                for found in opened
                if found.isreg()
            ]
    except (tarfile.TarError, EOFError) as error:
        raise BadRecords(f"{archive} is not a complete tar archive ({error}): download it again.") from error
