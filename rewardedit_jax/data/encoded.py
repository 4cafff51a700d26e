"""Edits as they are stored: encoded images that nothing has decoded, for copying, judging and training.

`StoredEdits` is the base of every source of edits that lies on a disk. A subclass reads the files of one layout; the
decoded record of `Source`, and the digests of images, follow from them here.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewardedit_jax.data.images import decode_image
from rewardedit_jax.data.records import EditRecord


@dataclass(frozen=True, eq=False)
class EncodedEdit:
    """An edit with its images as encoded files (PNG, JPEG, WebP, ...), never encoded again."""

    key: str  # unique within its source
    instruction: str
    source: bytes  # the image before the edit
    edited: bytes  # the image after the edit
    scores: tuple[float, float, float] | None = None  # 0..5, one per perspective
    feedback: tuple[str, str, str] | None = None  # one text per perspective; "None" where nothing failed
    extra: Mapping[str, Any] = field(default_factory=dict)  # further JSON values: "edit_type", "session", "turn", ...
    names: tuple[str, str] = ("source", "edited")  # of the two images in errors: their files, where they have files

    def decoded(self) -> EditRecord:
        """The edit as training reads it. Raises `ImageError`, naming the image, if one cannot be decoded."""
        pairs = zip((self.source, self.edited), self.names, strict=True)
        images = (np.asarray(decode_image(data, name)) for data, name in pairs)
        scores = None if self.scores is None else np.asarray(self.scores, np.float32)
        return EditRecord(self.key, self.instruction, *images, scores, self.feedback)


class StoredEdits(ABC):
    """Random access to edits on a disk: a `Source` whose records can also be read encoded.

    Worker threads read from one object at the same time, so subclasses hold no mutable state.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encoded(self, index: int) -> EncodedEdit:
        """The edit with its images as they are stored. Raises `ImageError` or `BadRecords` if it cannot be read."""

    @abstractmethod
    def keys(self) -> Sequence[str]:
        """The keys of all edits, in order; no image is read."""

    def __getitem__(self, index: int) -> EditRecord:
        return self.encoded(index).decoded()

    def digests(self, index: int) -> tuple[str, str]:
        """SHA-256 of the encoded source and edited image, hexadecimal: equal digests are equal files."""
        edit = self.encoded(index)
        return digest(edit.source), digest(edit.edited)


def digest(data: bytes) -> str:
    """SHA-256 of an encoded image, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
