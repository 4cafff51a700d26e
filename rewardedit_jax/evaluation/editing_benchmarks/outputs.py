"""A look at the edits of a system before they are judged: damaged files, grey pictures, other sizes and shapes.

Nothing here changes a number. A damaged edit is a failure; what else is unusual is judged as it is, and named.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from rewardedit_jax.data.images import ImageError, load_image, upright_rgb
from rewardedit_jax.evaluation.editing_benchmarks.edit_folder import Edits
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import UNREADABLE_EDIT
from rewardedit_jax.judging.answers import NoVerdict

# Ratio of two aspect ratios. The sides of an edit are multiples of 64, which changes the shape of a photograph by up to
# an eighth.
_SAME_SHAPE = 1.15


def look_at(edits: Edits) -> dict[str, list[str]]:
    """Keys of the edits that are "grey" though the source is not, or that have another size or shape than the source.

    Edits that cannot be decoded become failures of `edits`.
    """
    found: dict[str, list[str]] = {"grey": [], "other_size": [], "other_shape": []}
    source_of = lru_cache(maxsize=16)(_look)  # the items of one photograph follow each other
    for key, file in edits.edited.items():
        try:
            size, is_grey = _look(file)
            source_size, source_is_grey = source_of(edits.sources[key])
        except ImageError as error:
            edits.failures[key] = NoVerdict(UNREADABLE_EDIT, str(error))
            continue
        if is_grey and not source_is_grey:
            found["grey"].append(key)
        if size != source_size:
            found["other_size"].append(key)
        ratio = size[0] / size[1] * source_size[1] / source_size[0]
        if max(ratio, 1 / ratio) > _SAME_SHAPE:
            found["other_shape"].append(key)
    return found


def _look(file: Path) -> tuple[tuple[int, int], bool]:
    """Width and height, and whether the picture is grey."""
    image = upright_rgb(load_image(file))
    return image.size, _is_grey(image)


def _is_grey(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())
