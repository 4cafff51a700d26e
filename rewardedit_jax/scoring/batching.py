"""Which edits are scored together: of one source and of like size, so that little is encoded twice or padded."""

from collections import defaultdict
from collections.abc import Sequence

import jax

from rewardedit_jax.scoring.packing import ScorerItem, round_up


def batches_of(items: Sequence[ScorerItem], batch_size: int) -> tuple[list[list[int]], int]:
    """The numbers of the items of each batch, and the rows of a batch, of which the last may fill fewer.

    Rows are a power of two for a few edits, so that one costs no more than it should, and divisible by the devices.
    """
    rows = round_up(min(batch_size, 2 ** (len(items) - 1).bit_length()), jax.device_count())
    order = _by_size(items)
    return [order[start : start + rows] for start in range(0, len(order), rows)], rows


def _by_size(items: Sequence[ScorerItem]) -> list[int]:
    """The edits of a source together, sources by what their largest edit pads a batch to."""
    of_source = defaultdict(list)
    for i, item in enumerate(items):
        of_source[item.source.digest].append(i)
    together = sorted(of_source.values(), key=lambda edits: max(_size(items[i]) for i in edits))
    return [i for edits in together for i in sorted(edits, key=lambda i: _size(items[i]))]


def _size(item: ScorerItem) -> tuple[int, int]:
    """Patches of the larger image and tokens, which a batch is padded to by its largest item."""
    return max(item.source.n_patches, item.edited.n_patches), sum(map(len, item.prompts))
