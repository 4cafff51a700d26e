"""The config.json that SmartEdit's Q-Former and interaction module are published without, from shapes of their tensors.

What no shape tells is the same in both published sizes, and the default of the network here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardedit_jax.models.interaction import InteractionConfig
from rewardedit_jax.models.qformer import QFormerConfig
from rewardedit_jax.weights.faults import WeightFileError


class FileShapes(dict[str, tuple[int, ...]]):
    """Tensor name → shape of a file. What the file lacks is a WeightFileError that names it."""

    def __init__(self, file: Path, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__(shapes)
        self.file = file

    def size(self, name: str, axis: int) -> int:
        """The length of an axis of a tensor."""
        shape = self.get(name)
        if shape is None or axis >= len(shape) or not shape[axis]:
            found = "lacks" if shape is None else f"has {list(shape)} as shape of"
            raise WeightFileError(f"{self.file} {found} the tensor {name}: it is damaged, or another file.")
        return shape[axis]

    def numbers(self, pattern: str) -> list[int]:
        """The numbers that the group of a regex finds in names, in order."""
        return sorted({int(found[1]) for name in self if (found := re.match(pattern, name))})

    def describe(self, config: type, **sizes: int) -> dict[str, Any]:
        """The config.json of a network of these sizes."""
        try:
            return config(**sizes).to_hf()
        except ValueError as error:
            raise WeightFileError(f"{self.file}: {error}") from error


def qformer_config(found: FileShapes) -> dict[str, Any]:
    """The config.json of the Q-Former whose tensors a file has."""
    layer = "sd_qformer.encoder.layer."
    width, layers = found.size("sd_query_tokens", 2), found.numbers(re.escape(layer) + r"(\d+)\.")
    crossed = found.numbers(re.escape(layer) + r"(\d+)\.crossattention\.")
    return found.describe(
        QFormerConfig,
        hidden_size=width,
        num_hidden_layers=len(layers),
        # No tensor tells the number of heads. BERT's are 64 wide, and so are the published ones; a width that would
        # have less than four such heads belongs to a tiny network for tests, which has four.
        num_attention_heads=max(4, width // 64),
        intermediate_size=found.size(f"{layer}0.intermediate_query.dense.weight", 0),
        # Layer 0 reads the states of the language model, and every so many layers behind it another one.
        cross_attention_frequency=crossed[1] if len(crossed) > 1 else max(len(layers), 1),
        encoder_hidden_size=found.size(f"{layer}0.crossattention.self.key.weight", 1),
        num_queries=found.size("sd_query_tokens", 1),
    )


def interaction_config(found: FileShapes) -> dict[str, Any]:
    """The config.json of the Bidirectional Interaction Module whose tensors a file has."""
    layer = "modulate_transformer.layers."
    width = found.size("modulate_head.weight", 0)
    return found.describe(
        InteractionConfig,
        hidden_size=width,
        num_hidden_layers=len(found.numbers(re.escape(layer) + r"(\d+)\.")),
        # Heads: those of Segment Anything's two-way transformer, 8 whatever its width, are the default.
        intermediate_size=found.size(f"{layer}0.mlp.lin1.weight", 0),
        attention_downsample_rate=width // found.size(f"{layer}0.cross_attn_token_to_image.q_proj.weight", 0),
        context_size=found.size("dimension_reduction_head_qformer_out.weight", 0),
        residual_size=found.size("dimension_reduction_head_zeroconv.weight", 0),
    )
