"""What a judged edit is, and what a data source is: the two types that every reader of data sees."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True, eq=False)
class EditRecord:
    """One edit and, where a judge has seen it, its reward. The perspectives are following, preserving, quality."""

    key: str  # unique within its source
    instruction: str
    source: UInt8[np.ndarray, "h w 3"]  # RGB, the image before
    edited: UInt8[np.ndarray, "h2 w2 3"]  # RGB, the image after; it may fall short of the instruction
    scores: Float[np.ndarray, "3"] | None  # float32, 0..5, one for each perspective
    feedback: tuple[str, str, str] | None  # one for each perspective; "None" where nothing failed


@runtime_checkable
class Source(Protocol):
    """Random access to records, as `grain.MapDataset.source` wants it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EditRecord: ...
