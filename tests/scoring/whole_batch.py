"""The arrays of one pass over a few edits, in which each image occurs once."""

from typing import NamedTuple

import numpy as np

from rewardedit_jax.models.edit_reward import PackedPrompts
from rewardedit_jax.scoring.images import MERGE
from rewardedit_jax.scoring.packing import pack_items, stack_images
from rewardedit_jax.scoring.prompts import PERSPECTIVES


class Batch(NamedTuple):
    patches: np.ndarray  # uint8[n P 588]
    grids: np.ndarray  # int32[n 3]
    prompts: PackedPrompts


def whole_batch(items, rows, images=None, perspectives=PERSPECTIVES):
    """`images`: the number that images are padded to."""
    distinct = {image.digest: image for item in items for image in (item.source, item.edited)}
    patches, grids = stack_images(list(distinct.values()), images or len(distinct))
    width = patches.shape[1] // MERGE**2
    first_slot = {digest: i * width for i, digest in enumerate(distinct)}
    prompts = pack_items(items, lambda image: first_slot[image.digest], rows, perspectives=perspectives)
    return Batch(patches, grids, prompts)
