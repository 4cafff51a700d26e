"""Records as they are stored: encoded images that nothing has decoded, for copying, judging and training.

There are three kinds: edits; pairs of edits with a preference; and requests, which ask for an edit and have none. A
source of stored records reads the files of one layout. Decoded records and digests of images follow from them here.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rewardedit_jax.data.images import decode_image
from rewardedit_jax.data.records import EditRecord, Preference, PreferenceLabel


class Stored(ABC):
    """Random access to records on a disk.

    Worker threads read from one object at the same time, so subclasses hold no state that matters between calls.
    """

    # Entries of the index that were left out on request (`skip_bad`), a sentence for each.
    faults: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encoded(self, index: int) -> Any:
        """The record with its images as they are stored. Raises `ImageError` or `BadRecords` if it cannot be read."""

    @abstractmethod
    def keys(self) -> Sequence[str]:
        """The keys of all records, in order; no image is read."""

    def fingerprint_texts(self) -> Iterable[str]:
        """Texts that differ between this and another source: the keys, and what else is known without the images."""
        return self.keys()

    def fingerprint(self) -> str:
        """The digest of `fingerprint_texts` and `faults`: another one means other data."""
        return digest_texts(chain(self.fingerprint_texts(), self.faults))


# Edits.


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
        images = _decoded((self.source, self.edited), self.names)
        scores = None if self.scores is None else np.asarray(self.scores, np.float32)
        return EditRecord(self.key, self.instruction, *images, scores, self.feedback)


class StoredEdits(Stored):
    """Random access to edits on a disk: a `Source` whose records can also be read encoded."""

    @abstractmethod
    def encoded(self, index: int) -> EncodedEdit: ...

    def __getitem__(self, index: int) -> EditRecord:
        return self.encoded(index).decoded()

    def digests(self, index: int) -> tuple[str, str]:
        """SHA-256 of the encoded source and edited image, hexadecimal: equal digests are equal files."""
        edit = self.encoded(index)
        return digest(edit.source), digest(edit.edited)

    def identities(self, indices: Sequence[int]) -> Iterator[tuple[str, str, str] | ValueError]:
        """For each index the digests of both images and the instruction, or the error of an edit that is unreadable.

        For many edits at a time, because an index of them is read faster by column than by row.
        """
        for index in indices:
            try:
                edit = self.encoded(index)
                yield digest(edit.source), digest(edit.edited), edit.instruction
            except ValueError as error:
                yield error


@dataclass(frozen=True)
class RequestLabel:
    """What an edit is asked for, without images."""

    key: str  # unique within its source
    instruction: str
    edit_type: str  # as the benchmark names it
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # further JSON values


class AskedEdits(StoredEdits):
    """Edits whose requests are known without reading an image, as benchmarks of editors need them."""

    @abstractmethod
    def labels(self) -> Sequence[RequestLabel]:
        """What each edit was asked for, in order. `extra` has "input", which is equal for equal sources."""


# Pairs of edits.


@dataclass(frozen=True, eq=False)
class EncodedPreference:
    """A labelled pair of edits with its images as encoded files."""

    label: PreferenceLabel
    source: bytes
    edited_a: bytes
    edited_b: bytes
    names: tuple[str, str, str]  # of the three images in errors

    def decoded(self) -> Preference:
        """The pair as training reads it. Raises `ImageError`, naming the image, if one cannot be decoded."""
        images = _decoded((self.source, self.edited_a, self.edited_b), self.names)
        return Preference(**vars(self.label), **dict(zip(("source", "edited_a", "edited_b"), images, strict=True)))


class StoredPreferences(Stored):
    """Random access to pairs of edits on a disk: a `PreferenceSource` whose pairs can also be read encoded."""

    labels: Sequence[PreferenceLabel]

    @abstractmethod
    def encoded(self, index: int) -> EncodedPreference: ...

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Preference:
        return self.encoded(index).decoded()

    def keys(self) -> list[str]:
        return [label.key for label in self.labels]

    def fingerprint_texts(self) -> Iterable[str]:
        return map(str, self.labels)


# Requests.


@dataclass(frozen=True, eq=False)
class EncodedRequest:
    """What a benchmark asks an editor for: an instruction and a source image, as an encoded file."""

    key: str  # unique within its source
    instruction: str
    source: bytes
    edit_type: str  # as the benchmark names it
    extra: Mapping[str, Any] = field(default_factory=dict)  # further JSON values
    name: str = "source"  # of the image in errors

    def decoded(self) -> UInt8[np.ndarray, "h w 3"]:
        """The source image, RGB. Raises `ImageError`, naming it, if it cannot be decoded."""
        (image,) = _decoded((self.source,), (self.name,))
        return image


class StoredRequests(Stored):
    """Random access to requests on a disk."""

    @abstractmethod
    def encoded(self, index: int) -> EncodedRequest: ...

    @abstractmethod
    def labels(self) -> Sequence[RequestLabel]:
        """All requests without their images, in order; no image is read."""


def _decoded(images: Sequence[bytes], names: Sequence[str]) -> list[UInt8[np.ndarray, "h w 3"]]:
    return [np.asarray(decode_image(image, name)) for image, name in zip(images, names, strict=True)]


def digest(data: bytes) -> str:
    """SHA-256 of a file, such as an encoded image, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_texts(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order, such as the keys of records, hexadecimal."""
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return found.hexdigest()
