"""Facts about the images of edits that need no scorer: which files are equal, look equal, or were left unchanged.

One line per edit in a result file. Curation decides from these lines alone, without reading an image again.
"""

import importlib.util
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from rewardedit_jax.data.encoded import StoredEdits, digest
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.data.runs import Failed, ResultFile

MAKER = "facts"  # the field of a line that says how its facts were computed
VERSION = "1"  # changes with every change of what is computed
HASH_SIDE = 16  # a hash has HASH_SIDE² bits. 64 bits cannot tell a small edit from its source: see docs/curation.md
_GRID = 32  # cells in each direction
_AHEAD = 64  # edits that threads prepare before they are written
_MAX_TEXT = 200  # characters of a further field that is kept


@dataclass(frozen=True)
class Job:
    """An edit whose facts are computed; its key is that of its line."""

    key: str
    number: int = field(compare=False)  # of the edit in its source


class Facts(msgspec.Struct, frozen=True):
    """What is known of an edit after reading it once."""

    content: str  # 32 hexadecimal digits, equal for edits with equal image files and the same instruction
    request: str  # 16 hexadecimal digits, equal for instructions that differ in case, spaces or the final stop only
    digests: tuple[str, str]  # of the image files, source and edited; 32 hexadecimal digits
    hashes: tuple[str, str]  # perceptual, of the images; 64 hexadecimal digits
    difference: float  # 0..255, `cell_difference` of the images
    scores: tuple[float, float, float] | None  # 0..5, the reward that the data has
    extra: Mapping[str, str | int | float | bool]  # fields of the edit that hold one value, such as its type

    def to_json(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)


def require_imagehash() -> None:
    """Raises an ImportError that names the extra, if imagehash is missing. For use before a long computation."""
    if not importlib.util.find_spec("imagehash"):
        raise ImportError(
            "imagehash is missing: curation needs the extra 'curate', pip install 'rewardedit_jax[curate]'"
        )


def gather_facts(edits: StoredEdits, jobs: Sequence[Job], file: Path) -> None:
    """Append the facts of edits that `file` lacks. An edit that cannot be read gets its reason instead."""
    fact_file(file).run(jobs, lambda due: _gather(edits, due), VERSION)


def fact_file(file: Path) -> ResultFile:
    return ResultFile(file, ("key",), MAKER)


def _gather(edits: StoredEdits, jobs: Sequence[Job]) -> Iterator[tuple[Job, Facts | Failed]]:
    futures = prefetch_map(lambda number: facts_of(edits, number), ((job.number,) for job in jobs), _AHEAD)
    for job, future in zip(jobs, tqdm(futures, "image facts", len(jobs), unit=" edits"), strict=True):
        try:
            yield job, future.result()
        except ValueError as error:
            yield job, Failed(str(error))


def facts_of(edits: StoredEdits, number: int) -> Facts:
    """The facts of one edit. Raises `ImageError` or `BadRecords` if it cannot be read."""
    edit = edits.encoded(number)
    record, digests = edit.decoded(), (digest(edit.source), digest(edit.edited))
    return Facts(
        content=_hashed((*digests, edit.instruction), 16),
        request=_hashed([normalized(edit.instruction)], 8),
        digests=tuple(text[:32] for text in digests),
        hashes=(perceptual_hash(record.source), perceptual_hash(record.edited)),
        difference=round(cell_difference(record.source, record.edited), 2),
        scores=None if edit.scores is None else tuple(map(float, edit.scores)),
        extra={name: value for name, value in edit.extra.items() if _is_single(value)},
    )


def normalized(instruction: str) -> str:
    """The instruction in one form of Unicode, lower case, with single spaces and without a final stop."""
    text = unicodedata.normalize("NFKC", instruction).casefold()
    return re.sub(r"\s+", " ", text).strip().rstrip(".! ")


def perceptual_hash(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """The signs of low frequencies of the image (pHash), 256 bits as 64 hexadecimal digits."""
    # Imported here, as other commands work without the extra `curate`.
    import imagehash

    return str(imagehash.phash(Image.fromarray(image), HASH_SIDE))


def cell_difference(a: UInt8[np.ndarray, "h w 3"], b: UInt8[np.ndarray, "h2 w2 3"]) -> float:
    """The largest difference 0..255 between the mean colours of equal cells, of 32×32 in each image.

    Means of cells cancel the noise of JPEG and of resizing, and the largest one sees a small edit, which the mean over
    all pixels does not: see docs/curation.md for what was measured.
    """
    # Bilinear: cells overlap. Pillow's box filter counts whole pixels, and borders that lie within a pixel shift cells.
    size = (_GRID, _GRID)
    a, b = (np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR), np.int16) for x in (a, b))
    return float(np.abs(a - b).mean(axis=-1).max())


def _is_single(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _MAX_TEXT)


def _hashed(texts: Iterable[str], size: int) -> str:
    found = blake2b(digest_size=size)
    for text in texts:
        found.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()
