"""The weight engine: templates, the strictness of both directions, and that each undoes the other."""

from collections import Counter
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.weights.engine import (
    CONV,
    COPY,
    LINEAR,
    POINTWISE,
    Rule,
    WeightMismatch,
    WeightTable,
    conv,
    export_tensors,
    import_tensors,
    linear,
    norm,
)

TABLE = WeightTable(
    rules=(
        *conv("blocks.{i}.conv", "blocks_{i}/conv"),
        *linear("blocks.{i}.attn.{proj:q|k}", "blocks_{i}/attn/{proj}", aliases=("old.{i}.{proj}",)),
        *linear("shortcut", "shortcut", transform=POINTWISE),
        *norm("norm", "norm"),
        Rule("scale", "scale", COPY),
    ),
    ignore=(r".*\.position_ids",),
)


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def checkpoint():
    """Torch tensors of a network of two blocks."""
    tensors = {"norm.weight": normal(4), "norm.bias": normal(4), "scale": normal()}
    for i in range(2):
        tensors |= {f"blocks.{i}.conv.weight": normal(6, 4, 3, 3), f"blocks.{i}.conv.bias": normal(6)}
        for proj in "qk":
            tensors |= {f"blocks.{i}.attn.{proj}.weight": normal(5, 4), f"blocks.{i}.attn.{proj}.bias": normal(5)}
    return tensors | {"shortcut.weight": normal(6, 4, 1, 1), "shortcut.bias": normal(6)}


def abstract(dtype=jnp.float32):
    def of(*shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    block = {
        "conv": {"kernel": of(3, 3, 4, 6), "bias": of(6)},
        "attn": {proj: {"kernel": of(4, 5), "bias": of(5)} for proj in "qk"},
    }
    return {
        "blocks_0": block,
        "blocks_1": block,
        "shortcut": {"kernel": of(4, 6), "bias": of(6)},
        "norm": {"scale": of(4), "bias": of(4)},
        "scale": of(),
    }


def faults_of(tensors, table=TABLE, wanted=None):
    with pytest.raises(WeightMismatch) as error:
        import_tensors(tensors, table, wanted or abstract())
    return str(error.value)


def test_import_lays_every_tensor_out():
    tensors = checkpoint()
    params = import_tensors(tensors, TABLE, abstract())
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, abstract())
    kernel = params["blocks_1"]["conv"]["kernel"]  # HWIO of OIHW
    assert kernel[0, 2, 1, 5] == tensors["blocks.1.conv.weight"][5, 1, 0, 2]
    np.testing.assert_array_equal(params["blocks_0"]["attn"]["k"]["kernel"], tensors["blocks.0.attn.k.weight"].T)
    np.testing.assert_array_equal(params["shortcut"]["kernel"], tensors["shortcut.weight"][:, :, 0, 0].T)
    assert params["scale"] == tensors["scale"]
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(params))


def test_export_undoes_import():
    tensors = checkpoint()
    exported = export_tensors(import_tensors(tensors, TABLE, abstract()), TABLE)
    assert exported.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(exported[name], tensor, err_msg=name)
        assert exported[name].flags.c_contiguous


def test_export_takes_device_arrays():
    params = jax.tree.map(jnp.asarray, import_tensors(checkpoint(), TABLE, abstract()))
    assert all(isinstance(t, np.ndarray) for t in export_tensors(params, TABLE).values())


def test_values_are_cast_to_the_wanted_type():
    params = import_tensors(checkpoint(), TABLE, abstract(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


class CountingReader(Mapping):
    """A checkpoint on disk, as it were: says its names, and counts what is read."""

    def __init__(self, tensors):
        self.tensors, self.reads = tensors, Counter()

    def __getitem__(self, name):
        self.reads[name] += 1
        return self.tensors[name]

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


def test_each_tensor_is_read_once_and_ignored_ones_never():
    # The type checker of these tests reads the first tensor of a mapping as well, so let that be one of no account.
    buffer = np.arange(3)
    reader = CountingReader({"first.position_ids": buffer, **checkpoint(), "text.position_ids": buffer})
    import_tensors(reader, TABLE, abstract())
    del reader.reads["first.position_ids"]
    assert reader.reads == Counter(checkpoint().keys())


def test_a_tensor_without_a_rule_is_a_fault():
    assert "tensor head.weight: no rule takes it" in faults_of(checkpoint() | {"head.weight": normal(2, 2)})


def test_names_are_matched_from_end_to_end():
    for name in ("xnorm.weight", "norm.weight.x", "blocks.0xattn.q.weight", "blocks.a.attn.q.weight"):
        assert f"tensor {name}: no rule takes it" in faults_of(checkpoint() | {name: normal(4)})


def test_an_ignore_pattern_must_cover_the_whole_name():
    assert "position_ids.weight: no rule takes it" in faults_of(checkpoint() | {"a.position_ids.weight": normal(1)})


def test_a_tensor_that_two_rules_take_is_a_fault():
    twice = WeightTable((*TABLE.rules, Rule("norm.{kind:weight}", "other/{kind}", COPY)))
    assert "tensor norm.weight: two rules take it" in faults_of(checkpoint(), twice)


def test_a_parameter_that_two_tensors_fill_is_a_fault():
    both = checkpoint() | {"old.1.q.weight": normal(5, 4)}
    expected = "parameter blocks_1/attn/q/kernel: filled by both blocks.1.attn.q.weight and old.1.q.weight"
    assert expected in faults_of(both)


def test_an_unfilled_parameter_is_a_fault():
    tensors = checkpoint()
    del tensors["blocks.1.conv.bias"]
    assert "parameter blocks_1/conv/bias: no tensor fills it" in faults_of(tensors)


def test_a_tensor_of_a_deeper_network_is_a_fault():
    deeper = checkpoint() | {"blocks.2.conv.weight": normal(6, 4, 3, 3)}
    expected = "tensor blocks.2.conv.weight: the network has no parameter blocks_2/conv/kernel"
    assert expected in faults_of(deeper)


@pytest.mark.parametrize("shape", [(6,), (4, 5), (6, 4, 3), (6, 4, 3, 3)])
def test_a_shape_that_differs_is_a_fault(shape):
    message = faults_of(checkpoint() | {"blocks.0.attn.q.weight": normal(*shape)})
    assert "parameter blocks_0/attn/q/kernel: blocks.0.attn.q.weight gives shape" in message
    assert "the network wants (4, 5)" in message
    assert "(1 faults)" in message


def test_all_faults_come_in_one_error():
    tensors = checkpoint() | {
        "head.weight": normal(2, 2),
        "old.0.k.bias": normal(5),
        "blocks.7.conv.bias": normal(6),
        "blocks.0.conv.weight": normal(6, 9, 3, 3),
        "scale": normal(1),
    }
    del tensors["norm.bias"]
    message = faults_of(tensors)
    assert "(6 faults)" in message
    for fault in (
        "tensor head.weight: no rule",
        "parameter blocks_0/attn/k/bias: filled by both",
        "tensor blocks.7.conv.bias: the network has no",
        "parameter norm/bias: no tensor",
        "parameter blocks_0/conv/kernel: blocks.0.conv.weight gives shape (3, 3, 9, 6)",
        "parameter scale: scale gives shape (1,), the network wants ()",
    ):
        assert fault in message


def test_a_long_list_of_faults_is_cut():
    message = faults_of(checkpoint() | {f"extra{i}": normal(1) for i in range(50)})
    assert "(50 faults)" in message
    assert message.endswith("... and 10 more")


def test_aliases_are_read_and_never_written():
    tensors = checkpoint()
    older = {name.replace("blocks.0.attn", "old.0"): tensor for name, tensor in tensors.items()}
    assert older.keys() != tensors.keys()
    assert export_tensors(import_tensors(older, TABLE, abstract()), TABLE).keys() == tensors.keys()


def test_a_repeated_placeholder_stands_for_one_word():
    rule = Rule("layers.{i}.{kind:q|kv}_{kind}.{j}", "layers_{i}/{kind}/at_{j}_of_{i}", COPY)
    assert rule.to_path("layers.3.kv_kv.5") == "layers_3/kv/at_5_of_3"
    assert rule.to_path("layers.3.q_kv.5") is None
    assert rule.to_torch("layers_3/kv/at_5_of_3") == "layers.3.kv_kv.5"
    assert rule.to_torch("layers_3/kv/at_5_of_4") is None


@pytest.mark.parametrize(
    ("torch", "path"), [("{p:a|b}.w", "{p}/k"), ("{p}.w", "{p:a|b}/k"), ("{p:a|b}.w", "{p:a|b}/k")]
)
def test_words_may_be_listed_on_either_side(torch, path):
    rule = Rule(torch, path, COPY, aliases=("old_{p}",))
    assert [rule.to_path(name) for name in ("b.w", "old_b", "c.w", "0.w")] == ["b/k", "b/k", None, None]
    assert [rule.to_torch(name) for name in ("a/k", "c/k", "0/k")] == ["a.w", None, None]


def test_names_are_no_regexes():
    rule = Rule("a.b+c", "a/b+c", COPY)
    assert rule.to_path("a.b+c") == "a/b+c"
    assert rule.to_path("axbbc") is None


def test_a_parameter_without_a_rule_cannot_be_written():
    params = import_tensors(checkpoint(), TABLE, abstract())
    with pytest.raises(WeightMismatch, match="parameter head/kernel: no rule takes it"):
        export_tensors(params | {"head": {"kernel": normal(2, 2)}}, TABLE)


def test_a_parameter_with_two_rules_cannot_be_written():
    twice = WeightTable((Rule("a", "x", COPY), Rule("b", "x", COPY)))
    with pytest.raises(WeightMismatch, match="parameter x: two rules take it"):
        export_tensors({"x": normal(1)}, twice)


def test_two_parameters_cannot_be_written_under_one_name():
    clash = WeightTable((Rule("w", "x", COPY), Rule("w", "y", COPY)))
    with pytest.raises(WeightMismatch, match="parameter y: another one is already written as w"):
        export_tensors({"x": normal(1), "y": normal(1)}, clash)


@pytest.mark.parametrize(
    ("transform", "shape"), [(COPY, (2, 3, 4)), (LINEAR, (5, 4)), (POINTWISE, (5, 4, 1, 1)), (CONV, (5, 4, 3, 2))]
)
def test_transforms_undo_each_other(transform, shape):
    x = normal(*shape)
    np.testing.assert_array_equal(transform.to_torch(transform.to_jax(x)), x)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1)])
def test_a_pointwise_layer_is_read_from_either_layout(shape):
    params = import_tensors(checkpoint() | {"shortcut.weight": normal(6, 4).reshape(shape)}, TABLE, abstract())
    np.testing.assert_array_equal(params["shortcut"]["kernel"], normal(6, 4).T)
