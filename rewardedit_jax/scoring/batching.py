"""Which edits are scored together: of one source and of like size, so that little is encoded twice or padded."""

from collections import defaultdict
from collections.abc import Container, Sequence

from rewardedit_jax.scoring.images import PreparedImage
from rewardedit_jax.scoring.packing import ScorerItem, round_up

AT_A_TIME = 16  # batches whose items are put into order, so that few sizes compile and little is padded


def rows_of(edits: int, batch_size: int, ways: int = 1) -> int:
    """Of the batches of so many edits, divisible by `ways`.

    A power of two for a few, so that they cost no more than they should.
    """
    return round_up(min(batch_size, 2 ** (edits - 1).bit_length()), ways)


def batches_of(items: Sequence[ScorerItem], rows: int, encoded: Container[PreparedImage] = ()) -> list[list[int]]:
    """The numbers of the items of each batch, of which the last may be smaller.

    The edits of a source follow each other: those of sources that are `encoded` first, before these are forgotten, and
    of the last item's last, as more of them may come.
    """
    of_source = defaultdict(list)
    for i, item in enumerate(items):
        of_source[item.source.digest].append(i)

    def place(edits: Sequence[int]) -> tuple[bool, bool, tuple[int, int]]:
        source = items[edits[0]].source
        is_last = source.digest == items[-1].source.digest
        return is_last, source not in encoded, max(_size(items[i]) for i in edits)

    together = sorted(of_source.values(), key=place)
    order = [i for edits in together for i in sorted(edits, key=lambda i: _size(items[i]))]
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def _size(item: ScorerItem) -> tuple[int, int]:
    """Patches of the larger image and tokens, which a batch is padded to by its largest item."""
    return max(item.source.n_patches, item.edited.n_patches), sum(map(len, item.prompts))
