"""Inference on many edits: which of them form a batch, on which devices, with which programs.

Images are encoded once and kept (`feature_cache`), both prompts of an edit are packed into one row (`packing`), and
batches have few static shapes, so that few programs are compiled.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Float32

from rewardedit_jax.models.edit_reward import PARTITION_RULES, EditReward, PackedPrompts
from rewardedit_jax.models.qwen2_5_vl import ImageFeatures
from rewardedit_jax.params import Params
from rewardedit_jax.scoring.feature_cache import FeatureCache
from rewardedit_jax.scoring.images import PreparedImage
from rewardedit_jax.scoring.packing import ScorerItem, pack_items, round_up
from rewardedit_jax.sharding import batch_parts, batch_sharding, infer_shardings, make_mesh, place

# Batches whose edits are sorted by size together. More batches mean less padding and fewer programs, but more prepared
# images in memory and a longer wait for the first score.
CHUNK_BATCHES = 16
# Images in the cache per row of a batch, which needs two itself. One image takes 2 MB for the 7B model in bfloat16.
_CACHED_IMAGES_PER_ROW = 8


def product_precision(module: EditReward) -> str:
    """The setting of `jax.default_matmul_precision` for this network."""
    # Accelerators round the operands of float32 products (TF32, bfloat16) unless the highest precision is set.
    return "highest" if jnp.dtype(module.dtype) == jnp.float32 else "default"


def scorer_mesh(tensor: int = 1) -> Mesh:
    """A mesh of all devices in groups of `tensor`, each of which holds one copy of the weights."""
    # Weights are divided over the tensor axis, not over fsdp, which would gather them where they are used: a group only
    # has memory for one copy.
    devices = jax.device_count()
    if tensor < 1 or devices % tensor:
        raise ValueError(f"tensor={tensor}: expected a divisor of the number of devices, {devices}.")
    return make_mesh(tensor=tensor)


def shard_weights(params: Params, mesh: Mesh) -> Params:
    """The parameters on the mesh, each divided over the devices of a tensor group."""
    return place(params, infer_shardings(params, PARTITION_RULES, mesh))


def _mesh_of(params: Params) -> Mesh:
    """The mesh that the parameters lie on; for parameters in host memory, all devices."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else scorer_mesh()


def batch_rows(edits: int, batch_size: int, multiple: int = 1) -> int:
    """Rows of a batch for this number of edits: a multiple of `multiple` (parts that devices divide it into).

    Few edits get the next power of two instead of `batch_size`, so that they do not pay for padding rows.
    """
    return round_up(min(batch_size, 2 ** (edits - 1).bit_length()), multiple)


def plan_batches(items: Sequence[ScorerItem], rows: int, encoded: Container[PreparedImage] = ()) -> list[list[int]]:
    """Indices of the items in each batch; the last batch may be smaller.

    Edits of one source are consecutive, so that its features are used while they are cached. Sources are sorted by the
    size of their largest edit, so that a batch has little padding. Sources in `encoded` come first, before the cache
    drops them. The source of the last item comes last, because the next chunk may have more of its edits.
    """
    # By digest, not by object: a list names the file of a source again for each edit.
    by_source = defaultdict(list)
    for i, item in enumerate(items):
        by_source[item.source.digest].append(i)

    def order_of(edits: Sequence[int]) -> tuple[bool, bool, tuple[int, int]]:
        source = items[edits[0]].source
        is_last = source.digest == items[-1].source.digest
        return is_last, source not in encoded, max(_size(items[i]) for i in edits)

    groups = sorted(by_source.values(), key=order_of)
    order = [i for edits in groups for i in sorted(edits, key=lambda i: _size(items[i]))]
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def _size(item: ScorerItem) -> tuple[int, int]:
    """Patches of the larger image, and tokens: a batch is padded to those of its largest item."""
    return max(item.source.n_patches, item.edited.n_patches), sum(map(len, item.prompts))


class Inference:
    """One run over edits that come in chunks. The feature cache is kept from chunk to chunk."""

    def __init__(self, module: EditReward, params: Params, perspectives: Sequence[str], edits: int, batch_size: int):
        """Sizes for at least `edits` edits in batches of `batch_size`, rounded up to what the devices divide."""
        self._module, self._params, self._perspectives = module, params, perspectives
        self._mesh = _mesh_of(params)
        self._rows = rows = batch_rows(edits, batch_size, batch_parts(self._mesh))
        self._cache = FeatureCache(module, params, self._mesh, rows, _CACHED_IMAGES_PER_ROW * rows)

    def outputs(self, items: Sequence[ScorerItem]) -> Float32[np.ndarray, "n k 2"]:
        """(mean, log σ) for each prompt, in the order of the items."""
        outputs = np.zeros((len(items), len(self._perspectives), 2), np.float32)
        with jax.default_matmul_precision(product_precision(self._module)), jax.set_mesh(self._mesh):
            self._cache.widen(_images(items))
            # Results of a batch are fetched after the next one is dispatched, so that the device is never idle.
            for (indices, values), _ in pairwise(chain(self._batches(items), [None])):
                outputs[indices] = np.asarray(values)[: len(indices)]
        return outputs

    def _batches(self, items: Sequence[ScorerItem]) -> Iterator[tuple[list[int], Float[Array, "b k 2"]]]:
        """Indices and outputs of batches, which are dispatched one by one."""
        batches = plan_batches(items, self._rows, self._cache)
        for n, indices in enumerate(batches):
            later = (items[i] for i in chain(*batches[n + 1 :]))
            yield indices, self._dispatch([items[i] for i in indices], later)

    def _dispatch(self, items: Sequence[ScorerItem], later: Iterable[ScorerItem]) -> Float[Array, "b k 2"]:
        # First the images, because rows point to the slots that they get.
        self._cache.hold(list(_images(items)), _images(later))
        prompts = pack_items(items, self._cache.first_slot, self._rows, perspectives=self._perspectives)
        prompts = jax.device_put(prompts, batch_sharding(self._mesh))
        return _score_features(self._module, self._params, self._cache.features, prompts)


def _images(items: Iterable[ScorerItem]) -> Iterator[PreparedImage]:
    return (image for item in items for image in (item.source, item.edited))


# One program per number of features and tokens; `packing.padded_length` keeps both few.
@partial(jax.jit, static_argnums=0)
def _score_features(
    module: EditReward, params: Params, images: ImageFeatures, prompts: PackedPrompts
) -> Float[Array, "b k 2"]:
    # Python runs this body once per program, before XLA compiles it: a user sees why nothing happens for a while.
    logging.info("compiling the scorer for batches of %d rows of %d tokens", *prompts.ids.shape)
    return module.apply({"params": params}, images, prompts, method="score_features")
