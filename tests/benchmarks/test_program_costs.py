"""Costs of a compiled program, read from texts written by hand and from a small program that XLA counts too."""

import jax
import jax.numpy as jnp
import pytest
from hlo_text import Program
from program_costs import BETWEEN_SLICES, Collective, collectives, first_group, flops, hbm_bytes, relayouts
from tiny_models import TEXT_WIDTH, tiny_unet

from rewardedit_jax.params import abstract_params

# A loop of three rounds, a matrix product in a fusion, memory on the chip, and collectives in the notations of XLA.
TEXT = """HloModule step, is_scheduled=true

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused_computation (p.0: bf16[8,16], p.1: bf16[16,32]) -> f32[8,32] {
  %p.0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %dot.1 = f32[8,32]{1,0:T(8,128)} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[8,32])) -> (s32[], f32[8,32]) {
  %state = (s32[], f32[8,32]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %x = f32[8,32]{1,0} get-tuple-element(%state), index=1
  %all-reduce.1 = (f32[8,32]{1,0}, /*index=1*/f32[4]{0}) all-reduce(%x, %x), replica_groups=[2,4]<=[4,2]T(1,0), \
use_global_device_ids=true, to_apply=%add.1
  %y = f32[8,32]{1,0} get-tuple-element(%all-reduce.1), index=0
  ROOT %next = (s32[], f32[8,32]{1,0}) tuple(%n, %y)
}

%condition (state.1: (s32[], f32[8,32])) -> pred[] {
  %state.1 = (s32[], f32[8,32]{1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%n.1, %limit), direction=LT
}

ENTRY %main (x.1: bf16[8,16], w: bf16[16,32]) -> f32[8,32] {
  %x.1 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(1)
  %copy-start = (bf16[16,32]{1,0:S(1)}, bf16[16,32]{1,0}, u32[]{:S(2)}) copy-start(%w)
  %copy-done = bf16[16,32]{1,0:S(1)} copy-done(%copy-start)
  %product = f32[8,32]{1,0} fusion(%x.1, %copy-done), kind=kOutput, calls=%fused_computation
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,32]{1,0}) tuple(%zero, %product)
  %loop = (s32[], f32[8,32]{1,0}) while(%start), condition=%condition, body=%body
  %last = f32[8,32]{1,0} get-tuple-element(%loop), index=1
  %gather = (f32[8,32]{1,0}, f32[16,32]{1,0}) all-gather-start(%last), replica_groups={{0,1},{2,3}}, dimensions={0}
  %gathered = f32[16,32]{1,0} all-gather-done(%gather)
  %scattered = f32[4,32]{1,0} reduce-scatter(%gathered), replica_groups=mesh['x'=2,'y'=4] {'y'}, to_apply=%add.1
  %moved = (f32[4,32]{1,0}, f32[4,32]{1,0}, u32[]{:S(2)}) collective-permute-start(%scattered), \
source_target_pairs={{0,1},{1,2}}
  %arrived = f32[4,32]{1,0} collective-permute-done(%moved)
  ROOT %transposed = f32[32,4]{1,0} transpose(%arrived), dimensions={1,0}
}
"""


@pytest.fixture(scope="module")
def program():
    return Program.parse(TEXT)


def test_collectives_count_as_often_as_they_run(program):
    assert collectives(program) == [
        Collective("all-reduce", (0, 2, 4, 6), 4 * (8 * 32 + 4), 3),
        Collective("all-gather", (0, 1), 4 * 16 * 32, 1),
        Collective("reduce-scatter", (0, 1, 2, 3), 4 * 4 * 32 * 4, 1),
        Collective("collective-permute", (0, 1), 4 * 4 * 32, 1),
    ]


def test_products_and_memory_traffic(program):
    assert flops(program) == 2 * 8 * 16 * 32
    x, w, product, part = 2 * 8 * 16, 2 * 16 * 32, 4 * 8 * 32, 4 * 4 * 32
    once = [w, x + product, product + 2 * product, 2 * product + part, 2 * part, 2 * part]
    # The copy of the weights in the chip's own memory is read for nothing.
    assert hbm_bytes(program) == sum(once) + 3 * (2 * product + product + 4 * 4)


@pytest.mark.parametrize(("name", "products"), [("splash_mha_fwd_residuals.3", 2), ("splash_mha_dkv_no_residuals", 5)])
def test_products_of_an_attention_kernel(name, products):
    """Of 2 heads, 256 queries and 128 keys of width 40; the table of blocks is not the queries."""
    kernel = f"""ENTRY %main (table: s8[1,2,1], q: bf16[2,40,256], k: bf16[2,40,128]) -> bf16[2,256,40] {{
  %table = s8[1,2,1]{{2,1,0}} parameter(0)
  %q = bf16[2,40,256]{{2,1,0}} parameter(1)
  %k = bf16[2,40,128]{{2,1,0}} parameter(2)
  ROOT %{name} = bf16[2,256,40]{{2,1,0}} custom-call(%table, %q, %k, %k), custom_call_target="tpu_custom_call"
}}
"""
    program = Program.parse(kernel)
    assert flops(program) == products * 2 * 2 * 40 * 256 * 128
    assert flops(Program.parse(kernel.replace(name, "another"))) == 0


def test_a_slice_reads_what_it_keeps():
    """Once started behind other work into the chip's memory, once within HBM."""
    text = """%part (all: f32[64,8]) -> f32[16,8] {
  %all = f32[64,8]{1,0} parameter(0)
  ROOT %kept = f32[16,8]{1,0:S(1)} slice(%all), slice={[0:16], [0:8]}
}

ENTRY %main (x: f32[64,8]) -> f32[8,8] {
  %x = f32[64,8]{1,0} parameter(0)
  %start = ((f32[64,8]{1,0}), f32[16,8]{1,0:S(1)}, s32[]{:S(2)}) async-start(%x), calls=%part
  %done = f32[16,8]{1,0:S(1)} async-done(%start)
  ROOT %y = f32[8,8]{1,0} slice(%x), slice={[0:8], [0:8]}
}
"""
    assert hbm_bytes(Program.parse(text)) == 4 * 8 * (16 + 2 * 8)


def test_working_memory_of_a_library_does_not_count():
    text = """ENTRY %main (x: bf16[4,4]) -> f32[4,4] {
  %x = bf16[4,4]{1,0} parameter(0)
  %both = (f32[4,4]{1,0}, s8[4194304]{0}) custom-call(%x, %x), custom_call_target="__cublas$lt$matmul"
  ROOT %y = f32[4,4]{1,0} get-tuple-element(%both), index=0
}
"""
    assert hbm_bytes(Program.parse(text)) == 2 * 2 * 16 + 4 * 16


def test_a_collective_behind_fusions_counts_once():
    """Started, continued by a fusion that squares `y`, and ended; all three compute with its instruction."""
    gather = "all-gather(%{}), channel_id=7, replica_groups={{{{0,1}}}}, dimensions={{0}}"
    text = f"""%begin (p: f32[8]) -> (f32[8], f32[16]) {{
  %p = f32[8]{{0}} parameter(0)
  %gather.1 = f32[16]{{0}} {gather.format("p")}
  ROOT %started = (f32[8]{{0}}, f32[16]{{0}}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}}

%async_collective_fusion (q: f32[8], r: f32[16], y.1: f32[4]) -> (f32[4], f32[8], f32[16]) {{
  %q = f32[8]{{0}} parameter(0)
  %r = f32[16]{{0}} parameter(1)
  %y.1 = f32[4]{{0}} parameter(2)
  %gather.2 = f32[16]{{0}} {gather.format("q")}
  %square = f32[4]{{0}} multiply(%y.1, %y.1)
  ROOT %passed = (f32[4]{{0}}, f32[8]{{0}}, f32[16]{{0}}) tuple(%square, %q, %gather.2)
}}

%end (s: f32[8], t: f32[16]) -> f32[16] {{
  %s = f32[8]{{0}} parameter(0)
  %t = f32[16]{{0}} parameter(1)
  %gather.3 = f32[16]{{0}} {gather.format("s")}
  ROOT %ended = f32[16]{{0}} custom-call(%s, %t, %gather.3), custom_call_target="AsyncCollectiveDone"
}}

ENTRY %main (x: f32[8], y: f32[4]) -> f32[16] {{
  %x = f32[8]{{0}} parameter(0)
  %y = f32[4]{{0}} parameter(1)
  %async-collective-start.1 = (f32[8]{{0}}, f32[16]{{0}}) fusion(%x), kind=kCustom, calls=%begin
  %x.1 = f32[8]{{0}} get-tuple-element(%async-collective-start.1), index=0
  %z.1 = f32[16]{{0}} get-tuple-element(%async-collective-start.1), index=1
  %fusion.2 = (f32[4]{{0}}, f32[8]{{0}}, f32[16]{{0}}) fusion(%x.1, %z.1, %y), kind=kOutput, \
calls=%async_collective_fusion, backend_config={{"continuation_config":{{"output_tuple_original_start":"0",\
"output_tuple_original_end":"0","operand_original_start":"2","operand_original_end":"2"}}}}
  %x.2 = f32[8]{{0}} get-tuple-element(%fusion.2), index=1
  %z.2 = f32[16]{{0}} get-tuple-element(%fusion.2), index=2
  ROOT %async-collective-done.1 = f32[16]{{0}} fusion(%x.2, %z.2), kind=kCustom, calls=%end
}}
"""
    program = Program.parse(text)
    assert collectives(program) == [Collective("all-gather", (0, 1), 4 * 16, 1)]
    assert hbm_bytes(program) == 4 * (8 + 16) + 4 * (4 + 4)


def test_an_all_reduce_of_which_parts_are_kept_is_a_reduce_scatter():
    text = """%all-reduce-scatter.2 (p: f32[16]) -> f32[8] {
  %p = f32[16]{0} parameter(0)
  %sum = f32[16]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[8]{0} dynamic-slice(%sum, %zero), dynamic_slice_sizes={8}
}

ENTRY %main (x: f32[16]) -> f32[8] {
  %x = f32[16]{0} parameter(0)
  ROOT %kept = f32[8]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.2
}
"""
    assert collectives(Program.parse(text)) == [Collective("reduce-scatter", (0, 1), 4 * 16, 1)]


def test_what_hosts_reduce_between_slices():
    text = """ENTRY %main (x: bf16[4,8]) -> token[] {
  %x = bf16[4,8]{1,0} parameter(0)
  %after-all = token[] after-all()
  %send = (bf16[4,8]{1,0}, u32[]{:S(2)}, token[]) send(%x, %after-all), channel_id=3, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM"}
  ROOT %send-done = token[] send-done(%send), channel_id=3
}
"""
    assert collectives(Program.parse(text)) == [Collective(BETWEEN_SLICES, (), 2 * 4 * 8, 1)]


def test_loops_without_a_known_count_are_named():
    unknown = Program.parse(
        TEXT.replace("%limit = s32[] constant(3)", "%limit = s32[] get-tuple-element(%state.1), index=0")
    )
    assert {one.runs for one in collectives(unknown)} == {1}
    assert unknown.unknown_loops == {"loop"}
    noted = Program.parse(TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'))
    assert collectives(noted)[0].runs == 5


def test_a_permutation_between_no_devices_is_no_collective(program):
    nothing = Program.parse(TEXT.replace("source_target_pairs={{0,1},{1,2}}", "source_target_pairs={}"))
    assert collectives(nothing) == collectives(program)[:-1]


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        ("replica_groups={{4,5},{6,7}}", (4, 5)),
        ("replica_groups=[4,2]<=[8]", (0, 1)),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", (0, 1, 4, 5)),
        ("replica_groups=mesh['a'=2,'b'=3,'c'=2] {'a','c'}", (0, 1, 6, 7)),
        ("source_target_pairs={{3,0},{0,3}}", (3, 0)),
    ],
)
def test_groups_of_devices(attributes, group):
    assert first_group(f"channel_id=1, {attributes}, use_global_device_ids=true") == group


def test_text_of_something_else():
    with pytest.raises(ValueError, match="no ENTRY"):
        Program.parse("module @jit_step { }")
    with pytest.raises(ValueError, match="no group of devices"):
        first_group("channel_id=1")


def count(function, *shapes):
    """FLOPs of a function, as counted here and by XLA."""
    described = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    compiled = jax.jit(function).lower(*described).compile()
    return flops(Program.parse(compiled.as_text())), compiled.cost_analysis()["flops"]


def convolve(x, kernel, **settings):
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings)


def test_convolutions_count_as_xla_counts_them():
    plain = {"window_strides": (2, 2), "padding": ((1, 1), (1, 1))}
    gradient = jax.grad(lambda x, k: convolve(x, k, **plain).sum(), argnums=(0, 1))
    for function in (lambda x, k: convolve(x, k, **plain), gradient):
        found, xla = count(function, (2, 8, 8, 4), (3, 3, 4, 16))
        # XLA also counts the sums of the gradient's cotangent.
        assert found == pytest.approx(xla, rel=0.02)


@pytest.fixture(scope="module")
def unet_program():
    unet = tiny_unet()
    inputs = (jnp.zeros((2, 16, 16, 8)), jnp.zeros(2), jnp.zeros((2, 5, TEXT_WIDTH)))
    lowered = jax.jit(lambda params, *inputs: unet.apply({"params": params}, *inputs)).lower(
        abstract_params(unet), *inputs
    )
    # What the tests turn off in other programs.
    options = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    return Program.parse(lowered.compile(compiler_options=options).as_text())


def test_no_transposes_at_layer_borders(unet_program):
    """Activations keep their layout from layer to layer; attention alone brings heads before tokens, and back."""
    places = [i.attribute(r'op_name="([^"]*)"') or "" for i in relayouts(unet_program, smallest=2 * 8 * 8 * 8)]
    assert not [place for place in places if "/attn" not in place]


def test_transposes_are_found(program):
    assert [i.name for i in relayouts(program, smallest=128)] == ["transposed"]
    assert not relayouts(program, smallest=129)
