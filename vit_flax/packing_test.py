"""The host's side of packed images: what is in the arrays, and how few shapes are compiled."""

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax import packing
from vit_flax.models.na_vit import NaViT
from vit_flax.packing import from_slots, pack_images, to_slots

ROOT = Path(__file__).parents[1]
MODEL = NaViT(image_size=32, patch_size=4, num_classes=5, dim=12, depth=1, heads=2, dim_head=4, mlp_dim=16)


def draw_images(rng, count):
    """Images of 4 to 32 pixels a side."""
    return [rng.normal(size=(*size, 3)).astype(np.float32) for size in 4 * rng.integers(1, 9, size=(count, 2))]


def test_a_hundred_lists_compile_once_for_each_shape():
    variables = jax.eval_shape(MODEL.init, jax.random.key(0), MODEL.example_input())
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables)
    traces = []

    @jax.jit
    def run(variables, packed):
        traces.append(packed['patches'].shape)
        return MODEL.apply(variables, **packed)

    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(100):
        images = draw_images(rng, rng.integers(1, 13))
        packed = pack_images(images, 4, max_tokens=96, max_images=8, lengths=(48, 96), rows=(2, 4, 6))
        assert len(from_slots(run(variables, packed), packed['slots'])) == len(images)
        shapes.add(packed['patches'].shape)
    assert len(traces) == len(set(traces)) == len(shapes) <= 6
    assert len(shapes) > 2


def test_few_shapes_without_being_asked():
    rng = np.random.default_rng(0)
    sizes = [draw_images(rng, rng.integers(1, 33)) for _ in range(100)]
    packed = [pack_images(images, 4, max_tokens=256) for images in sizes]
    # as many as there are lists if nothing is rounded
    assert len({one['patches'].shape for one in packed}) <= 25
    for one in packed:
        longest = (one['image_ids'] >= 0).sum(1).max()
        assert longest <= one['patches'].shape[1] <= max(8, 1.25 * longest)


def test_steps_of_lengths():
    assert [packing.round_up(n) for n in (1, 5, 8, 9, 11, 15, 17, 33, 64, 65, 1000)] == [
        *(1, 5, 8, 10, 12, 16, 20, 40, 64, 80, 1024)
    ]
    assert all(n <= packing.round_up(n) < 1.25 * n for n in range(1, 5000))


def test_what_is_in_the_arrays():
    """Patch for patch, in the order of a list of lists."""
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=size, dtype=np.uint8) for size in ((4, 9, 2), (8, 3, 2), (6, 6, 2))]
    packed = pack_images([images[:1], images[1:]], (2, 3), max_images=3, lengths=(9, 11), rows=3)
    assert {name: (array.shape, array.dtype.name) for name, array in packed.items()} == {
        'patches': ((3, 11, 12), 'uint8'),
        'positions': ((3, 11, 2), 'int32'),
        'image_ids': ((3, 11), 'int32'),
        'slots': ((3, 3), 'int32'),
    }
    np.testing.assert_array_equal(packed['slots'], [[0, -1, -1], [1, 2, -1], [-1] * 3])
    np.testing.assert_array_equal(packed['image_ids'], [[0] * 6 + [-1] * 5, [0] * 4 + [1] * 6 + [-1], [-1] * 11])
    for row, slot, image in ((0, 0, images[0]), (1, 0, images[1]), (1, 1, images[2])):
        of_image = packed['image_ids'][row] == slot
        for (i, j), patch in zip(packed['positions'][row, of_image], packed['patches'][row, of_image], strict=True):
            np.testing.assert_array_equal(patch, image[2 * i : 2 * i + 2, 3 * j : 3 * j + 3].transpose(2, 0, 1).ravel())
    assert not packed['patches'][packed['image_ids'] < 0].any()


def test_rows():
    counts = [5, 6, 2, 9, 1, 4]
    assert packing.greedy_rows(counts, 11) == [[0, 1], [2, 3], [4, 5]]
    assert packing.greedy_rows(counts, 11, 1) == [[index] for index in range(6)]
    assert packing.greedy_rows(counts, None) == [[0, 1, 2, 3, 4, 5]]
    assert packing.tight_rows(counts, 11) == [[3, 2], [1, 0], [5, 4]]
    assert packing.tight_rows(counts, None, 4) == [[3, 1, 0, 5], [2, 4]]


def test_slots_there_and_back():
    rng = np.random.default_rng(0)
    packed = pack_images(draw_images(rng, 11), 4, max_tokens=80, tight=True)
    labels = rng.integers(9, size=11)
    laid_out = to_slots(labels, packed['slots'], empty=-1)
    assert laid_out.shape == packed['slots'].shape and ((laid_out < 0) == (packed['slots'] < 0)).all()
    np.testing.assert_array_equal(from_slots(laid_out, packed['slots']), labels)
    features = rng.normal(size=(11, 3))
    np.testing.assert_array_equal(from_slots(to_slots(features, packed['slots']), packed['slots']), features)


def half_of_large_images(height, width):
    return 0.5 if height * width > 300 else 0.0


@pytest.mark.parametrize('rate', [0.25, half_of_large_images])
def test_tokens_are_dropped(rate):
    rng = np.random.default_rng(0)
    images = draw_images(rng, 9)
    packed = pack_images(images, 4, token_dropout_prob=rate, rng=3)
    again = pack_images(images, 4, token_dropout_prob=rate, rng=np.random.default_rng(3))
    jax.tree.map(np.testing.assert_array_equal, packed, again)
    whole = pack_images(images, 4)
    for slot, image in enumerate(images):
        share = rate(*image.shape[:2]) if callable(rate) else rate
        mine, all_of_it = (
            {tuple(place) for place in one['positions'][0, one['image_ids'][0] == slot]} for one in (packed, whole)
        )
        assert len(mine) == max(1, int(len(all_of_it) * (1 - share))) and mine <= all_of_it
    different = pack_images(images, 4, token_dropout_prob=rate, rng=4)
    assert (different['positions'] != packed['positions']).any()


ZEROS = np.zeros((8, 12, 3))


@pytest.mark.parametrize(
    'says, arguments',
    [
        ('images=[] must hold one image at least', ([], 4)),
        ('a list of empty lists', ([[], []], 4)),
        ('the size of image 1=(8, 10) is not divisible by patch_size=(4, 4): the nearest', ([ZEROS, ZEROS[:, :10]], 4)),
        ('image 0 of shape (8, 12) must be [h w c] for patch_size=(4, 4)', ([ZEROS[..., 0]], 4)),
        ('image 0 of shape (8, 12, 3) must be [t h w c] for patch_size=(2, 4, 4)', ([ZEROS], (2, 4, 4))),
        ('image 1 of shape (8, 12, 1) must have 3 channels in the last axis', ([ZEROS, ZEROS[..., :1]], 4)),
        ('(3, 8, 12) must have 3 channels in the last axis (channels come', ([ZEROS.transpose(2, 0, 1)], 4, 9, 1, 3)),
        ('image 0 of shape (0, 12, 3) is empty', ([ZEROS[:0]], 4)),
        ('image 0 has 6 tokens, more than max_tokens=5', ([ZEROS], 4, 5)),
        ('row 1 has 12 tokens, more than max_tokens=11', ([[ZEROS], [ZEROS, ZEROS]], 4, 11)),
        ('row 0 has 2 images, more than max_images=1', ([[ZEROS, ZEROS]], 4, 50, 1)),
    ],
)
def test_mistakes_of_the_caller(says, arguments):
    names = ('images', 'patch_size', 'max_tokens', 'max_images', 'channels')
    with pytest.raises(ValueError, match=re.escape(says)):
        pack_images(**dict(zip(names, arguments, strict=False)))


@pytest.mark.parametrize(
    'says, arguments',
    [
        ('lengths=(4, 5) is too small: there are 6 tokens in the longest row', dict(lengths=(4, 5))),
        ('rows=0 is too small: there are 1 rows of images', dict(rows=0)),
        ('rng=None must be a numpy generator or a seed', dict(token_dropout_prob=0.5)),
        ('token_dropout_prob=1.0 must be at least 0 and below 1', dict(token_dropout_prob=1.0, rng=0)),
        ('token_dropout_prob=-1 of an image of 8 x 12 must', dict(token_dropout_prob=lambda h, w: -1, rng=0)),
        ('kept_tokens of 2 images must be of the 1 that are given', dict(kept_tokens=[[0], [1]])),
        ('kept_tokens of image 0 must be different numbers below its 6', dict(kept_tokens=[[0, 0]])),
        ('kept_tokens of image 0 must be different numbers below its 6', dict(kept_tokens=[[6]])),
        ('kept_tokens of image 0 must be different numbers below its 6', dict(kept_tokens=[[]])),
        ('image 0 has 2 x 3 patches, the model has positions for 2 x 2', dict(grid=(2, 2))),
    ],
)
def test_further_mistakes_of_the_caller(says, arguments):
    with pytest.raises(ValueError, match=re.escape(says)):
        pack_images([ZEROS], 4, **arguments)


def test_images_that_the_model_does_not_take():
    model = MODEL
    with pytest.raises(ValueError, match=r'image 0 has 9 x 1 patches, the model has positions for 8 x 8: build it'):
        model.pack([np.zeros((36, 4, 3))])
    with pytest.raises(ValueError, match=r'image 0 of shape \(4, 4, 1\) must have 3 channels'):
        model.pack([np.zeros((4, 4, 1))])
    with pytest.raises(ValueError, match=r'rng=None must be a numpy generator or a seed'):
        model.clone(token_dropout_prob=0.5).pack([ZEROS], train=True)
    with pytest.raises(ValueError, match=r'image 0 has 6 tokens, more than max_seq_len=5'):
        packing.group_images_by_max_seq_len([ZEROS], 4, max_seq_len=5)


def test_the_example_learns_two_photographs(capsys):
    runpy.run_path(str(ROOT / 'examples' / 'navit_photographs' / 'crops.py'), run_name='__main__')
    out = capsys.readouterr().out
    assert 'step 1: ' in out and 'step 30: ' in out
    (right,) = re.findall(r'^(\d+) of 60 held-out crops right', out, re.MULTILINE)
    (apart,) = re.findall(r'gives other logits by (\S+)', out)
    assert int(right) > 50 and float(apart) < 1e-4
