"""Programs compiled here, whose collectives and products are known, and the forms that other compilers write."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from train.plan import hlo

ROWS, WIDTH, DEPTH = 16, 32, 3


@pytest.fixture(scope='module')
def mesh():
    return jax.make_mesh((8,), ('fsdp',), axis_types=(jax.sharding.AxisType.Auto,))


def compiled(mesh, function, *shapes):
    """A function of arrays that are split along their last axis but one."""
    arguments = []
    for shape in shapes:
        spec = PartitionSpec(*[None] * (len(shape) - 2), 'fsdp')
        arguments.append(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec)))
    return jax.jit(function).lower(*arguments).compile()


def layers(mesh, x, kernels):
    """Rows stay where they are, so that each layer gathers its kernel."""

    def layer(x, kernel):
        x = jax.lax.with_sharding_constraint(jnp.tanh(x @ kernel), NamedSharding(mesh, PartitionSpec('fsdp')))
        return x, None

    return jax.lax.scan(layer, x, kernels)[0]


def test_what_stands_in_a_loop_counts_as_often_as_it_runs(mesh):
    program = compiled(mesh, lambda *x: layers(mesh, *x), (ROWS, WIDTH), (DEPTH, WIDTH, WIDTH))
    found = hlo.read(program.as_text())
    assert found.devices == 8
    assert found.flops == DEPTH * 2 * ROWS * WIDTH * WIDTH / 8
    (gathered,) = found.collectives
    assert (gathered.kind, gathered.count, len(gathered.group)) == ('all-gather', DEPTH, 8)
    assert gathered.bytes == WIDTH * WIDTH * 4 and gathered.sent == gathered.bytes * 7 / 8


def test_products_are_those_that_xla_counts_where_there_is_no_loop(mesh):
    def products(x, y, image, kernel):
        grouped = jax.lax.conv_general_dilated(
            image, kernel, (2, 1), ((1, 2), (0, 3)), rhs_dilation=(1, 2), feature_group_count=2,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )  # fmt: skip
        return x @ y, grouped

    shapes = [(ROWS, WIDTH), (WIDTH, 5), (2, 8, 8, 4), (3, 3, 2, 6)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(products).lower(*arguments)
    costs = lowered.cost_analysis()
    assert costs is not None
    assert hlo.read(lowered.as_text(dialect='hlo')).flops == costs['flops'] > 2 * ROWS * WIDTH * 5


def test_all_reduced_gradients_have_the_layers_that_they_are_of(mesh):
    def gradients(x, kernels):
        with jax.named_scope('network'):
            losses = [jnp.sin(x @ kernel).sum() for kernel in kernels]
        return sum(losses)

    def step(x, *kernels):
        return jax.grad(gradients, argnums=1)(x, kernels)

    whole = NamedSharding(mesh, PartitionSpec())
    kernels = [jax.ShapeDtypeStruct((WIDTH, size), jnp.float32, sharding=whole) for size in (5, 7)]
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec('fsdp')))
    program = jax.jit(step, out_shardings=(whole, whole)).lower(x, *kernels).compile().as_text()
    found = hlo.read(str(program)).collectives
    assert {one.kind for one in found} == {'all-reduce'}
    assert sum(one.bytes for one in found) == 4 * WIDTH * (5 + 7)
    for one in found:
        assert sum(one.layers.values()) == pytest.approx(one.bytes)
        assert one.sent == 2 * one.bytes * 7 / 8


@pytest.mark.parametrize(
    'written, group',
    [
        ('replica_groups={{0,2},{1,3}}', (0, 2)),
        ('replica_groups=[2,4]<=[8]', (0, 1, 2, 3)),
        ('replica_groups=[4,2]<=[2,4]T(1,0)', (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", tuple(range(8))),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", (0, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3)),
        ('replica_groups={}', tuple(range(8))),
        ('source_target_pairs={{0,1},{1,3},{3,0}}', (0, 1, 3)),
    ],
)
def test_groups_in_all_forms_in_which_they_are_written(written, group):
    text = f"""HloModule test, num_partitions=8
ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4]{{0}} parameter(0)
  ROOT %all-reduce = f32[4]{{0}} all-reduce(%x), {written}, to_apply=%add
}}"""
    if 'pairs' in written:
        text = text.replace('all-reduce', 'collective-permute')
    (found,) = hlo.read(text).collectives
    assert found.group == group


# As libtpu writes it: no trip count, a counter that goes in twos, one gather in three pieces, arrays in the core.
LOOP = """HloModule test, num_partitions=4
%start (p: f32[2,8]) -> (f32[8,8]) {
  %p = f32[2,8]{1,0:T(8,128)} parameter(0)
  %all-gather.1 = f32[8,8]{1,0:T(8,128)S(1)} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %tuple.1 = (f32[8,8]{1,0:T(8,128)S(1)}) tuple(%all-gather.1)
}
%async_collective_fusion (p: f32[2,8]) -> f32[8,8] {
  %p.1 = f32[2,8]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.2 = f32[8,8]{1,0:T(8,128)S(1)} all-gather(%p.1), channel_id=7, replica_groups=[1,4]<=[4]
}
%body (t: (u32[], f32[2,8])) -> (u32[], f32[2,8]) {
  %t = (u32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%t), index=0
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%i, %two)
  %w = f32[2,8]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %a = (f32[8,8]{1,0:T(8,128)S(1)}) fusion(%w), kind=kCustom, calls=%start
  %b = f32[8,8]{1,0:T(8,128)S(1)} fusion(%w), kind=kCustom, calls=%async_collective_fusion
  %c = f32[8,8]{1,0:T(8,128)S(1)} add(%b, %b)
  ROOT %r = (u32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) tuple(%next, %w)
}
%condition (t: (u32[], f32[2,8])) -> pred[] {
  %t.1 = (u32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) parameter(0)
  %i.1 = u32[]{:T(128)} get-tuple-element(%t.1), index=0
  %end = u32[]{:T(128)} constant(13)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %end), direction=LT
}
ENTRY %main (x: f32[2,8]) -> f32[2,8] {
  %x = f32[2,8]{1,0:T(8,128)} parameter(0)
  %zero = u32[]{:T(128)} constant(1)
  %t.2 = (u32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) tuple(%zero, %x)
  %while = (u32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) while(%t.2), condition=%condition, body=%body
  ROOT %out = f32[2,8]{1,0:T(8,128)} get-tuple-element(%while), index=1
}"""


def test_a_loop_of_libtpu():
    found = hlo.read(LOOP)
    assert found.runs['body'] == 6  # from 1 to 13 in twos
    (gathered,) = found.collectives
    assert (gathered.count, gathered.bytes, gathered.group) == (6, 8 * 8 * 4, (0, 1, 2, 3))
    # Each fusion reads the array in the chip's memory, what they and the sum make stays in the core; then the sum
    # and the comparison of the counter.
    assert found.traffic == 6 * (2 * (2 * 8 * 4) + 3 * 4 + 2 * 4 + 1)


# Gradients that libtpu reduces and scatters at once, of two layers together.
SCATTER = """HloModule test, num_partitions=4
%all-reduce-scatter.1 (p: bf16[8,4], q: bf16[8,12]) -> (bf16[2,4], bf16[2,12]) {
  %p = bf16[8,4]{1,0} parameter(0)
  %q = bf16[8,12]{1,0} parameter(1)
  %all-reduce = (bf16[8,4]{1,0}, bf16[8,12]{1,0}) all-reduce(%p, %q), replica_groups=[1,4]<=[4], to_apply=%add
  %part = bf16[8,4]{1,0} get-tuple-element(%all-reduce), index=0
  ROOT %slice = bf16[2,4]{1,0} dynamic-slice(%part), dynamic_slice_sizes={2,4}
}
ENTRY %main (x: bf16[8,4], y: bf16[8,12]) -> bf16[2,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  %y = bf16[8,12]{1,0} parameter(1)
  %a = bf16[8,4]{1,0} negate(%x), metadata={op_name="jit(step)/jvp(ViT)/transformer/block_3/expand/dot_general"}
  %b = bf16[8,12]{1,0} negate(%y), metadata={op_name="jit(step)/jvp(ViT)/transformer/block_4/contract/dot_general"}
  %c = bf16[8,12]{1,0} bitcast(%b)
  ROOT %fusion = bf16[2,4]{1,0} fusion(%a, %c), kind=kCustom, calls=%all-reduce-scatter.1
}"""


def test_gradients_that_are_reduced_and_scattered_at_once():
    (found,) = hlo.read(SCATTER).collectives
    assert (found.kind, found.count, found.bytes) == ('reduce-scatter', 1, 2 * 8 * (4 + 12))
    assert found.layers == {'transformer/block_*/expand': 64, 'transformer/block_*/contract': 192}
    assert found.sent == found.bytes * 3 / 4
