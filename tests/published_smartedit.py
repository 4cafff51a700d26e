"""Names and shapes of the tensors in SmartEdit's published files, written out by hand: no table of the package is used.

They are those that transformers (LLaMA), peft (LoRA), LAVIS (Q-Former) and Segment Anything (interaction module) write.
"""

from typing import NamedTuple

RANK, ROWS = 8, 32_035  # of LoRA; of the vocabulary
PREFIX = "model.base_model.model."


class Size(NamedTuple):
    """Of the language model."""

    layers: int
    width: int
    mlp: int


PUBLISHED = {"7B": Size(32, 4096, 11_008), "13B": Size(40, 5120, 13_824)}
# Tensors in the files of the language model, of embeddings and Q-Former, of the U-Net and of the interaction module.
COUNTS = {"7B": [450, 133, 686, 89], "13B": [562, 133, 686, 89]}


def language_model_file(size, rows=ROWS):
    """Name → shape of the published LLM-15000/adapter_model.bin, with `rows` in the vocabulary."""
    layers, width, mlp = size
    shapes = {"embed_tokens.weight": (rows, width), "norm.weight": (width,)}
    for i in range(layers):
        layer = f"layers.{i}"
        shapes |= {f"{layer}.{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
        shapes |= {f"{layer}.self_attn.{p}_proj.weight": (width, width) for p in "qkvo"}
        shapes |= {f"{layer}.self_attn.{p}_proj.lora_A.default.weight": (RANK, width) for p in "qv"}
        shapes |= {f"{layer}.self_attn.{p}_proj.lora_B.default.weight": (width, RANK) for p in "qv"}
        shapes |= {f"{layer}.mlp.{p}_proj.weight": (mlp, width) for p in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (width, mlp), f"{layer}.self_attn.rotary_emb.inv_freq": (64,)}
    return {PREFIX + name: shape for name, shape in shapes.items()}


def embeddings_file(size, rows=ROWS):
    """Name → shape of the published checkpoint-15000_embeddings_qformer.bin: Q-Former, projector, output layer."""
    width = size.width
    shapes = {"sd_query_tokens": (1, 77, 768), "sd_qformer.embeddings.position_ids": (1, 512)}
    shapes |= _norm("sd_qformer.embeddings.LayerNorm", 768)
    for i in range(6):
        layer = f"sd_qformer.encoder.layer.{i}"
        for attention, states in [("attention", 768)] + [("crossattention", width)] * (i % 2 == 0):
            for part in ("query", "key", "value"):
                shapes |= _dense(f"{layer}.{attention}.self.{part}", 768, 768 if part == "query" else states)
            shapes |= _dense(f"{layer}.{attention}.output.dense", 768, 768)
            shapes |= _norm(f"{layer}.{attention}.output.LayerNorm", 768)
        shapes |= _dense(f"{layer}.intermediate_query.dense", 3072, 768)
        shapes |= _dense(f"{layer}.output_query.dense", 768, 3072) | _norm(f"{layer}.output_query.LayerNorm", 768)
    return shapes | _dense("mm_projector", width, 1024) | {"lm_head.weight": (rows, width)}


def interaction_file(residual=320):
    """Name → shape of the published modulate-15000/adapter_model.bin, with so many channels of the residual."""
    shapes = _dense("modulate_head", 1024, 768) | _dense("dimension_reduction_head_qformer_out", 768, 1024)
    shapes |= {"dimension_reduction_head_zeroconv.weight": (residual, 1024, 1, 1)}
    shapes |= {"dimension_reduction_head_zeroconv.bias": (residual,)}
    shapes |= {"pe_layer.positional_encoding_gaussian_matrix": (2, 512)}
    transformer = "modulate_transformer"
    attentions = {f"layers.{i}.self_attn": 1024 for i in (0, 1)}
    attentions |= {f"layers.{i}.cross_attn_{way}": 512 for i in (0, 1) for way in ("token_to_image", "image_to_token")}
    for attention, inner in {**attentions, "final_attn_token_to_image": 512}.items():
        for p in "qkv":
            shapes |= _dense(f"{transformer}.{attention}.{p}_proj", inner, 1024)
        shapes |= _dense(f"{transformer}.{attention}.out_proj", 1024, inner)
    for i in (0, 1):
        layer = f"{transformer}.layers.{i}"
        shapes |= _dense(f"{layer}.mlp.lin1", 2048, 1024) | _dense(f"{layer}.mlp.lin2", 1024, 2048)
        for n in (1, 2, 3, 4):
            shapes |= _norm(f"{layer}.norm{n}", 1024)
    return shapes | _norm(f"{transformer}.norm_final_attn", 1024)


def _dense(name, out, width):
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
