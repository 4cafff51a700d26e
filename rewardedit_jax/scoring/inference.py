"""A scorer's network at work on many edits: images encoded once, prompts packed, few programs, all devices."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from rewardedit_jax.models.edit_reward import EditReward, PackedPrompts
from rewardedit_jax.models.qwen2_5_vl import ImageFeatures
from rewardedit_jax.params import Params
from rewardedit_jax.scoring.batching import batches_of, rows_of
from rewardedit_jax.scoring.devices import mesh_of
from rewardedit_jax.scoring.feature_cache import FeatureCache
from rewardedit_jax.scoring.images import PreparedImage
from rewardedit_jax.scoring.packing import ScorerItem, pack_items
from rewardedit_jax.sharding import batch_parts, batch_sharding

# Images held for a row of a batch, of which two are its own. One of the published area is 2 MB for 7B in bfloat16.
_IMAGES_A_ROW = 8


class Inference:
    """One run over edits that come chunk by chunk; what it has encoded for one serves the next."""

    def __init__(self, module: EditReward, params: Params, perspectives: Sequence[str], edits: int, batch_size: int):
        """For `edits` or more, up to `batch_size` at a time, or the next number that the devices divide."""
        self._module, self._params, self._perspectives = module, params, perspectives
        self._mesh = mesh_of(params)
        self._rows = rows = rows_of(edits, batch_size, batch_parts(self._mesh))
        self._cache = FeatureCache(module, params, self._mesh, rows, _IMAGES_A_ROW * rows)

    def outputs(self, items: Sequence[ScorerItem]) -> Float32[np.ndarray, "n k 2"]:
        """(mean, log σ) of each prompt, in the order of the items."""
        found = np.zeros((len(items), len(self._perspectives), 2), np.float32)
        exact = jnp.dtype(self._module.dtype) == jnp.float32  # accelerators round float32 products unless told not to
        with jax.default_matmul_precision("highest" if exact else "default"), jax.set_mesh(self._mesh):
            self._cache.widen(_images(items))
            # Each is waited for when the next has been started, so that the device works while the host prepares.
            for (chosen, outputs), _ in pairwise(chain(self._runs(items), [None])):
                found[chosen] = np.asarray(outputs)[: len(chosen)]
        return found

    def _runs(self, items: Sequence[ScorerItem]) -> Iterator[tuple[list[int], Float[Array, "b k 2"]]]:
        """Batches of items, started one by one."""
        batches = batches_of(items, self._rows, self._cache)
        for n, chosen in enumerate(batches):
            afterwards = (items[i] for i in chain(*batches[n + 1 :]))
            yield chosen, self._run([items[i] for i in chosen], afterwards)

    def _run(self, items: Sequence[ScorerItem], afterwards: Iterable[ScorerItem]) -> Float[Array, "b k 2"]:
        self._cache.hold(list(_images(items)), _images(afterwards))
        prompts = pack_items(items, self._cache.first_slot, self._rows, perspectives=self._perspectives)
        prompts = jax.device_put(prompts, batch_sharding(self._mesh))
        return _score_features(self._module, self._params, self._cache.features, prompts)


def _images(items: Iterable[ScorerItem]) -> Iterator[PreparedImage]:
    return (image for item in items for image in (item.source, item.edited))


@partial(jax.jit, static_argnums=0)
def _score_features(
    module: EditReward, params: Params, images: ImageFeatures, prompts: PackedPrompts
) -> Float[Array, "b k 2"]:
    return module.apply({"params": params}, images, prompts, method="score_features")
