"""Weight tables of SmartEdit's networks: language model, Q-Former, Bidirectional Interaction Module.

Names are those of the published files. The language model is published in parts: LLaMA with LoRA, whose names have a
longer prefix, and projector and output layer beside the Q-Former, whose names have none.
"""

from rewardedit_jax.models.interaction import InteractionConfig
from rewardedit_jax.models.llava import LlavaConfig
from rewardedit_jax.models.qformer import QFormerConfig
from rewardedit_jax.weights.engine import COPY, POINTWISE, Rule, WeightTable, linear, norm, prefixed
from rewardedit_jax.weights.qwen2_5_vl import DECODER


def llava_table(config: LlavaConfig) -> WeightTable:
    """Rules for files of LLaVA 1.1, with LoRA or without, and for SmartEdit's."""
    rules = (
        *prefixed(DECODER, "model.", "model.base_model.model."),
        *prefixed(linear("mm_projector", "mm_projector"), "model.", ""),
        *linear("lm_head", "lm_head"),
    )
    # Frequencies of rotary embedding, a buffer. Training in bfloat16 leaves rounded ones, which nothing computes with.
    return WeightTable(rules, ignore=(r".*\.rotary_emb\.inv_freq",))


def qformer_table(config: QFormerConfig) -> WeightTable:
    """Rules of the queries and of the BERT that they go through."""
    layer, path = "sd_qformer.encoder.layer.{i}", "layers_{i}"
    attention, attention_path = f"{layer}.{{a:attention|crossattention}}", f"{path}/{{a}}"
    rules = (
        Rule("sd_query_tokens", "query_tokens", COPY),
        *norm("sd_qformer.embeddings.LayerNorm", "embeddings_LayerNorm"),
        *linear(f"{attention}.self.{{p:query|key|value}}", f"{attention_path}_self_{{p}}"),
        *linear(f"{attention}.output.dense", f"{attention_path}_output_dense"),
        *norm(f"{attention}.output.LayerNorm", f"{attention_path}_output_LayerNorm"),
        *linear(f"{layer}.{{part:intermediate|output}}_query.dense", f"{path}/{{part}}_query_dense"),
        *norm(f"{layer}.output_query.LayerNorm", f"{path}/output_query_LayerNorm"),
    )
    return WeightTable(rules, ignore=(r"sd_qformer\.embeddings\.position_ids",))  # a buffer that nothing reads


def interaction_table(config: InteractionConfig) -> WeightTable:
    """Rules of the two-way transformer and the dense layers around it."""
    layer, path = "modulate_transformer.layers.{i}", "modulate_transformer/layers_{i}"
    attention = "{a:self_attn|cross_attn_token_to_image|cross_attn_image_to_token}"
    last = "final_attn_token_to_image"
    rules = (
        *linear("modulate_head", "modulate_head"),
        # In the file a buffer of the module that computes positions.
        Rule("pe_layer.positional_encoding_gaussian_matrix", "positional_encoding_gaussian_matrix", COPY),
        *linear(f"{layer}.{attention}.{{p:q|k|v|out}}_proj", f"{path}/{{a}}/{{p}}_proj"),
        *linear(f"{layer}.mlp.lin{{n}}", f"{path}/mlp/lin{{n}}"),
        *norm(f"{layer}.norm{{n}}", f"{path}/norm{{n}}"),
        *linear(f"modulate_transformer.{last}.{{p:q|k|v|out}}_proj", f"modulate_transformer/{last}/{{p}}_proj"),
        *norm("modulate_transformer.norm_final_attn", "modulate_transformer/norm_final_attn"),
        *linear("dimension_reduction_head_qformer_out", "dimension_reduction_head_qformer_out"),
        *linear("dimension_reduction_head_zeroconv", "dimension_reduction_head_zeroconv", transform=POINTWISE),
    )
    return WeightTable(rules)
