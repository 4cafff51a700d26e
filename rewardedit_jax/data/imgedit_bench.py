"""The basic set of ImgEdit-Bench: requests of nine types of edits (ImgEdit, arXiv:2505.20275)."""

from pathlib import Path

import msgspec

from rewardedit_jax.data.encoded import EncodedRequest, RequestLabel, StoredRequests
from rewardedit_jax.data.images import image_bytes
from rewardedit_jax.data.json_files import Entry, convert, read_json, validate
from rewardedit_jax.data.paths import inside
from rewardedit_jax.data.records import Instruction, raise_or_log

_LIST, _IMAGES = "basic_edit.json", "original_images"
_LAYOUT = f"""expected:
  <root>/
    {_LIST}   {{"1082": {{"id": "animal/000342021.jpg", "prompt": "Smooth the shell.", "edit_type": "alter"}}, ...}}
    {_IMAGES}/animal/000342021.jpg ...
GitHub: PKU-YuanGroup/ImgEdit, Benchmark/Basic, which links the images."""


class _Request(msgspec.Struct):
    id: str  # path of the image
    prompt: Instruction
    edit_type: Instruction


class ImgEditBench(StoredRequests):
    """The requests in the order of the list, under its keys; `extra` has "image"."""

    def __init__(self, root: str | Path, *, skip_bad: bool = False):
        """Reads the list.

        Raises:
          FileNotFoundError: shows the expected layout.
          BadRecords: listing every malformed request, unless `skip_bad` leaves them out.
        """
        self.root = Path(root)
        if not (listing := self.root / _LIST).is_file():
            raise FileNotFoundError(f"no file {listing}; {_LAYOUT}")
        entries, faults = validate(read_json(listing, dict).items(), _Request)
        self._requests, outside = convert(entries, self._checked)
        self.faults = raise_or_log(faults + outside, str(listing), skip_bad)

    def __len__(self) -> int:
        return len(self._requests)

    def keys(self) -> list[str]:
        return [entry.name for entry in self._requests]

    def fingerprint_texts(self) -> list[str]:
        return [f"{entry.name}: {entry.value}" for entry in self._requests]

    def labels(self) -> list[RequestLabel]:
        return [_label(entry) for entry in self._requests]

    def encoded(self, index: int) -> EncodedRequest:
        label, file = _label(self._requests[index]), self._file(self._requests[index].value)
        return EncodedRequest(
            label.key, label.instruction, image_bytes(file), label.edit_type, label.extra, name=str(file)
        )

    def _file(self, request: _Request) -> Path:
        return inside(self.root / _IMAGES, request.id)

    def _checked(self, entry: Entry) -> _Request:
        self._file(entry.value)
        return entry.value


def _label(entry: Entry) -> RequestLabel:
    request = entry.value
    return RequestLabel(entry.name, request.prompt, request.edit_type, {"image": request.id})
