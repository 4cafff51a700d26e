"""The tensors in the published files of SmartEdit: sizes of its networks that their shapes give, names, and checks.

Huang et al., "SmartEdit: Exploring Complex Instruction-based Image Editing with Multimodal Large Language Models"
(2024). Names are those that transformers (LLaMA), LAVIS (Q-Former) and Segment Anything (two-way transformer) write.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rewardedit_jax.weights.faults import WeightFileError

Shapes = Mapping[str, tuple[int, ...]]
_MOST = 5  # names of a kind in an error


class FileShapes(dict[str, tuple[int, ...]]):
    """Tensor name → shape of a file. What the file lacks is a WeightFileError that names it."""

    def __init__(self, file: Path, shapes: Shapes):
        super().__init__(shapes)
        self.file = file

    def size(self, name: str, axis: int) -> int:
        """The length of an axis of a tensor."""
        shape = self.get(name)
        if shape is None or axis >= len(shape):
            found = "lacks" if shape is None else f"has {list(shape)} as shape of"
            raise WeightFileError(f"{self.file} {found} the tensor {name}: it is damaged, or another file.")
        return shape[axis]

    def numbers(self, pattern: str) -> list[int]:
        """The numbers that the group of a regex finds in names, in order."""
        return sorted({int(found[1]) for name in self if (found := re.match(pattern, name))})

    def check(self, expected: Shapes, ignored: str, advice: str) -> None:
        """Raises WeightFileError, which lists tensors that are missing, too much or of another shape.

        Args:
          ignored: a regex of names that may be there.
          advice: the end of the message.
        """
        surplus = [name for name in self if name not in expected and not re.fullmatch(ignored, name)]
        wrong = [
            f"{name} (shape {list(self[name])}, expected {list(shape)})"
            for name, shape in expected.items()
            if name in self and self[name] != shape
        ]
        missing = [name for name in expected if name not in self]
        kinds = {"missing": missing, "unknown": surplus, "of another shape": wrong}
        if faults := [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names]:
            raise WeightFileError(
                f"{self.file} has {len(self)} tensors, where {len(expected)} are read; {'; '.join(faults)}. {advice}"
            )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join([*names[:_MOST], *(["..."] if len(names) > _MOST else [])])


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def language_shapes(layers: int, width: int, mlp: int, rows: int, rank: int, targets: Iterable[str]) -> Shapes:
    """The tensors of LLaMA with unmerged LoRA, without the prefix of peft; 7B has 418 and 13B 522."""
    square, targets = (width, width), set(targets)
    dense = {f"self_attn.{name}_proj": square for name in "qkvo"}
    dense |= {"mlp.gate_proj": (mlp, width), "mlp.up_proj": (mlp, width), "mlp.down_proj": (width, mlp)}
    layer = {f"{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
    for name, (out, into) in dense.items():
        layer[f"{name}.weight"] = out, into
        if name.rpartition(".")[2] in targets:
            layer |= {f"{name}.lora_A.default.weight": (rank, into), f"{name}.lora_B.default.weight": (out, rank)}
    outer = {"embed_tokens.weight": (rows, width), "norm.weight": (width,)}
    return outer | {f"layers.{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}


def qformer_config(found: FileShapes) -> dict[str, Any]:
    """The config.json of the Q-Former whose tensors a file has."""
    layer = "sd_qformer.encoder.layer."
    width, layers = found.size("sd_query_tokens", 2), found.numbers(re.escape(layer) + r"(\d+)\.")
    crossed = found.numbers(re.escape(layer) + r"(\d+)\.crossattention\.")
    return {
        "architectures": ["SmartEditQFormer"],
        "model_type": "smartedit_qformer",
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        # No tensor tells the number of heads. BERT's are 64 wide, and so are the published ones; a width that would
        # have less than four such heads belongs to a tiny network for tests, which has four.
        "num_attention_heads": max(4, width // 64),
        "intermediate_size": found.size(f"{layer}0.intermediate_query.dense.weight", 0),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        # Layer 0 reads the states of the language model, and every so many layers behind it another one.
        "cross_attention_frequency": crossed[1] if len(crossed) > 1 else max(len(layers), 1),
        "encoder_hidden_size": found.size(f"{layer}0.crossattention.self.key.weight", 1),
        "num_queries": found.size("sd_query_tokens", 1),
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }


def qformer_shapes(config: Mapping[str, Any]) -> Shapes:
    """The tensors of the Q-Former's path of queries; the published one has 128, and the queries."""
    width, mlp = config["hidden_size"], config["intermediate_size"]

    def attention(name: str, source: int) -> Shapes:
        projections = _linear(f"{name}.self.query", width, width)
        projections |= _linear(f"{name}.self.key", width, source) | _linear(f"{name}.self.value", width, source)
        return projections | _linear(f"{name}.output.dense", width, width) | _norm(f"{name}.output.LayerNorm", width)

    shapes = {"sd_query_tokens": (1, config["num_queries"], width)} | _norm("sd_qformer.embeddings.LayerNorm", width)
    for i in range(config["num_hidden_layers"]):
        layer = f"sd_qformer.encoder.layer.{i}"
        shapes |= attention(f"{layer}.attention", width)
        if i % config["cross_attention_frequency"] == 0:
            shapes |= attention(f"{layer}.crossattention", config["encoder_hidden_size"])
        shapes |= _linear(f"{layer}.intermediate_query.dense", mlp, width)
        shapes |= _linear(f"{layer}.output_query.dense", width, mlp) | _norm(f"{layer}.output_query.LayerNorm", width)
    return shapes


def interaction_config(found: FileShapes) -> dict[str, Any]:
    """The config.json of the Bidirectional Interaction Module whose tensors a file has."""
    layer = "modulate_transformer.layers."
    width = found.size("modulate_head.weight", 0)
    return {
        "architectures": ["SmartEditInteraction"],
        "hidden_size": width,
        "num_hidden_layers": len(found.numbers(re.escape(layer) + r"(\d+)\.")),
        "num_attention_heads": 8,  # of Segment Anything's two-way transformer, whatever its width
        "intermediate_size": found.size(f"{layer}0.mlp.lin1.weight", 0),
        "attention_downsample_rate": width // found.size(f"{layer}0.cross_attn_token_to_image.q_proj.weight", 0),
        "layer_norm_eps": 1e-5,
        "context_size": found.size("dimension_reduction_head_qformer_out.weight", 0),
        "residual_size": found.size("dimension_reduction_head_zeroconv.weight", 0),
        "context_factor": 0.5,
    }


def interaction_shapes(config: Mapping[str, Any]) -> Shapes:
    """The tensors of the interaction module; the published one has 89."""
    width, mlp = config["hidden_size"], config["intermediate_size"]
    inner = width // config["attention_downsample_rate"]

    def attention(name: str, inner: int) -> Shapes:
        shapes = _linear(f"{name}.out_proj", width, inner)
        for projection in "qkv":
            shapes |= _linear(f"{name}.{projection}_proj", inner, width)
        return shapes

    shapes = _linear("modulate_head", width, config["context_size"])
    shapes |= {"pe_layer.positional_encoding_gaussian_matrix": (2, width // 2)}
    shapes |= _linear("dimension_reduction_head_qformer_out", config["context_size"], width)
    shapes |= _norm("dimension_reduction_head_zeroconv", config["residual_size"])
    shapes["dimension_reduction_head_zeroconv.weight"] = (config["residual_size"], width, 1, 1)
    for i in range(config["num_hidden_layers"]):
        layer = f"modulate_transformer.layers.{i}"
        shapes |= attention(f"{layer}.self_attn", width)
        shapes |= attention(f"{layer}.cross_attn_token_to_image", inner)
        shapes |= attention(f"{layer}.cross_attn_image_to_token", inner)
        shapes |= _linear(f"{layer}.mlp.lin1", mlp, width) | _linear(f"{layer}.mlp.lin2", width, mlp)
        for number in range(1, 5):
            shapes |= _norm(f"{layer}.norm{number}", width)
    return (
        shapes
        | attention("modulate_transformer.final_attn_token_to_image", inner)
        | _norm("modulate_transformer.norm_final_attn", width)
    )
