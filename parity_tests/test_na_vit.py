"""NaViT: every way to pack images says the same as one by one, and rows are upstream's."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity_tests.bridge import make_pair
from parity_tests.case import all_cases
from parity_tests.upstream import upstream_module
from vit_flax import packing
from vit_flax.models import na_vit, na_vit_nested_tensor
from vit_flax.packing import from_slots, to_slots

SHAPES = {
    'na_vit': ((12, 20, 3), (24, 8, 3), (4, 4, 3), (12, 20, 3), (24, 8, 3)),
    'na_vit_nested_tensor': ((12, 20, 3), (24, 8, 3), (4, 4, 3), (12, 20, 3), (24, 8, 3)),
    'na_vit_nested_tensor_3d': ((2, 12, 20, 3), (6, 8, 8, 3), (2, 4, 4, 3), (2, 12, 20, 3), (6, 8, 8, 3)),
}


@pytest.fixture(scope='module', params=SHAPES)
def alone(request):
    """A model, its variables, images, and the logits of each alone with the sum of all gradients."""
    case = next(case for case in all_cases() if case.stem == request.param)
    with jax.enable_x64(True):
        pair = make_pair(replace(case, kwargs={**case.kwargs, 'depth': 1}))
        model = pair.flax
        if hasattr(model, 'train_embedding'):
            model = model.clone(train_embedding=True)
        rng = np.random.default_rng(0)
        images = [rng.normal(size=shape) for shape in SHAPES[request.param]]
        cotangents = rng.normal(size=(len(images), 7))

        @jax.jit
        def run(variables, image, cotangent):
            # no packing at all: a batch of one image
            logits, pull_back = jax.vjp(lambda variables: model.apply(variables, image[None])[0], variables)
            return logits, pull_back(cotangent)[0]

        logits, gradients = zip(
            *(run(pair.variables, *one) for one in zip(images, cotangents, strict=True)), strict=True
        )
        total = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0), *gradients)
    return model, pair.variables, images, cotangents, np.stack(logits), total


PACKINGS = {
    'one_row': dict(max_tokens=None),
    'in_order': dict(max_tokens=20),
    'tight': dict(max_tokens=30, tight=True),
    'a_row_each': dict(max_images=1),
    'many_empty_slots_and_rows': dict(max_tokens=40, max_images=7, rows=5, lengths=51),
}


@pytest.mark.parametrize('way', PACKINGS)
def test_every_packing_is_one_by_one(alone, way):
    """Logits and gradients; empty rows and slots say nothing and disturb nothing."""
    model, variables, images, cotangents, logits, gradients = alone
    packed = model.pack(images, **PACKINGS[way])

    @jax.jit
    def run(variables, packed, cotangents):
        out, pull_back = jax.vjp(lambda variables: model.apply(variables, **packed), variables)
        return out, pull_back(cotangents)[0]

    out, got = run(variables, packed, to_slots(cotangents, packed['slots'], empty=7))
    assert out.shape == (*packed['slots'].shape, 7)
    np.testing.assert_allclose(from_slots(out, packed['slots']), logits, rtol=0, atol=1e-9 * np.abs(logits).max())
    assert not np.asarray(out)[packed['slots'] < 0].any()
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())


def test_padding_is_not_read(alone):
    """Whatever stands in it, in logits and in gradients; without a single image there is still no NaN."""
    model, variables, images, *_ = alone
    packed = model.pack(images[:2], rows=2, lengths=40, max_tokens=40)
    padding = packed['image_ids'] < 0
    other = {**packed, 'patches': np.where(padding[..., None], 1e3, packed['patches'])}
    nothing = {**packed, 'image_ids': np.full_like(packed['image_ids'], -1), 'slots': np.full_like(packed['slots'], -1)}

    @jax.jit
    def run(packed):
        return jax.value_and_grad(lambda variables: (model.apply(variables, **packed) ** 2).sum())(variables)

    for mine, theirs in zip(jax.tree.leaves(run(other)), jax.tree.leaves(run(packed)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(run(nothing)))


def test_tokens_are_dropped_in_training_alone(alone):
    """`pack` drops what lists lose, the model what a batch of one size loses, with the same draw if it is given."""
    model, variables, images, *_ = alone
    model = model.clone(token_dropout_prob=0.4)
    two = [images[0], images[3]]
    assert (model.pack(two)['image_ids'] >= 0).sum() == 30
    assert (model.pack(two, train=True, rng=0)['image_ids'] >= 0).sum() == 18
    kept = packing.draw_kept_tokens(0, two, model.grid.patch, 0.4)

    def run(*args, **kwargs):
        return jax.jit(lambda variables: model.apply(variables, *args, **kwargs))(variables)

    given = run(np.stack(two), train=True, kept_tokens=np.stack(kept))
    packed = model.pack(two, kept_tokens=kept)
    np.testing.assert_allclose(from_slots(run(**packed, train=True), packed['slots']), given, rtol=1e-9)
    drawn, other = (run(np.stack(two), train=True, rngs={'mask': jax.random.key(seed)}) for seed in range(2))
    assert np.abs(drawn - other).max() > 1e-6
    np.testing.assert_array_equal(run(np.stack(two), rngs={'mask': jax.random.key(0)}), run(np.stack(two)))


def test_a_position_outside_of_the_table_is_no_other(alone):
    model, variables, images, *_ = alone
    packed = model.pack(images[:1])
    packed['positions'][0, 3, 1] = 9
    assert np.isnan(jax.jit(lambda variables: model.apply(variables, **packed))(variables)).all()


def by_size(height, width):
    return 0.5 if height * width > 300 else 0.1


@pytest.mark.parametrize('rate', [None, 0.3, by_size])
def test_rows_are_upstreams(rate):
    """Of images that keep a token: upstream counts the others as none, though one stays."""
    rng = np.random.default_rng(0)
    group = upstream_module('na_vit').group_images_by_max_seq_len
    for _ in range(30):
        sizes = 4 * rng.integers(2, 9, size=(rng.integers(1, 20), 2))
        images = [np.zeros((*size, 3), np.float32) for size in sizes]
        want = group([torch.zeros(3, *map(int, size)) for size in sizes], 4, rate, 70)
        got = na_vit.group_images_by_max_seq_len(images, 4, rate, 70)
        shapes = [[image.shape[:2] for image in row] for row in got]
        assert shapes == [[tuple(image.shape[1:]) for image in row] for row in want]
        packed = packing.pack_images(images, 4, 70, token_dropout_prob=rate, rng=0)
        assert [int((row >= 0).sum()) for row in packed['slots'] if row[0] >= 0] == [*map(len, want)]


def test_how_many_tokens_stay_on_nested_tensors():
    model = na_vit_nested_tensor.NaViT(
        image_size=8, patch_size=4, num_classes=2, dim=4, depth=1, heads=1, mlp_dim=4, dim_head=4
    )
    counts = torch.arange(1, 3000)
    for rate in (0.1, 0.25, 0.3, 0.7, 0.9):
        want = ((1.0 - rate) * counts).int().clamp(min=1)
        assert [model.tokens_kept(int(count), rate) for count in counts] == want.tolist()
    assert model.tokens_kept(100, 0.9) == 10 and packing.tokens_kept(100, 0.9) == 9


def test_a_loss_over_packed_labels():
    """As the docstring of `to_slots` writes it: the mean over images, whatever the padding."""
    rng = np.random.default_rng(0)
    losses, images = rng.normal(size=5), [np.zeros((4, 4, 3))] * 5
    for way in ({}, {'max_images': 2, 'rows': 4}):
        slots = packing.pack_images(images, 4, **way)['slots']
        laid_out = to_slots(losses, slots, empty=1e9)
        mean = jnp.sum(laid_out, where=slots >= 0) / jnp.sum(slots >= 0)
        np.testing.assert_allclose(mean, losses.mean(), rtol=1e-12)
