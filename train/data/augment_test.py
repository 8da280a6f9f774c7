"""Augmentation: what the model sees has the promised size and content, and no option does anything unasked."""

import dataclasses

import numpy as np
import pytest

from train.data.augment import Augment, affine, erase, middle_box, random_box, reflected
from train.errors import UserError
from train.sources.digits import Digits
from train.sources.image_folder import ImageFolder
from train.sources.synthetic import Synthetic


@pytest.fixture(scope='session')
def photograph():
    """One of scikit-learn's two, `[427 640 3]`."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images[1]


def rng(seed=0):
    return np.random.default_rng(seed)


def trained(augment, image, seed=0):
    return augment.train({'image': image, 'label': np.int32(7)}, rng(seed))


def evaluated(augment, image):
    return augment.evaluate({'image': image})['image']


# Each with what it needs beside it.
KINDS = {
    'nothing': Augment(image_size=24),
    'resized crop': Augment(image_size=24, resized_crop=(0.2, 0.6)),
    'pad crop': Augment(image_size=24, pad_crop=3),
    'turn': Augment(image_size=24, rotate=20, shift=0.1, zoom=0.2),
    'flip': Augment(image_size=24, flip=0.5),
    'randaugment': Augment(image_size=24, randaugment=2),
    'erase': Augment(image_size=24, erase=1.0),
}
ANY_NUMBERS = [kind for kind in KINDS if kind != 'randaugment']


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('height, width', [(24, 24), (40, 31), (8, 8), (9, 30), (1, 1)])
@pytest.mark.parametrize('channels', [1, 3])
def test_any_image_gets_the_size_of_the_model(kind, height, width, channels):
    image = rng().integers(0, 256, (height, width, channels), np.uint8)
    before = image.copy()
    for seed in range(3):
        record = trained(KINDS[kind], image, seed)
        assert record['image'].shape == (24, 24, channels) and record['image'].dtype == np.uint8
        assert record['label'] == 7
    np.testing.assert_array_equal(image, before)
    assert evaluated(KINDS[kind], image).shape == (24, 24, channels)


@pytest.mark.parametrize('kind', ANY_NUMBERS)
@pytest.mark.parametrize('dtype', [np.float32, np.uint8])
def test_any_number_of_channels_and_floats(kind, dtype):
    image = (rng().uniform(-3, 3, (30, 26, 5)) if dtype == np.float32 else rng().integers(0, 256, (30, 26, 5))).astype(
        dtype
    )
    found = trained(KINDS[kind], image)['image']
    assert found.shape == (24, 24, 5) and found.dtype == dtype
    # Resampling may overshoot a little, no more: nobody rescaled.
    assert found.min() >= 1.5 * min(image.min(), 0) and found.max() <= 1.5 * image.max()
    assert found.std() > 0.3 * image.std()


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'nothing'])
def test_the_generator_decides_everything(kind, photograph):
    first, again = (trained(KINDS[kind], photograph, 5)['image'] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    plain = trained(KINDS['nothing'], photograph)['image']
    others = np.stack([plain, *(trained(KINDS[kind], photograph, seed)['image'] for seed in range(12))])
    assert len(np.unique(others, axis=0)) >= (2 if kind == 'flip' else 8)


def test_by_default_nothing_happens(photograph):
    np.testing.assert_array_equal(trained(Augment(), photograph)['image'], photograph)
    np.testing.assert_array_equal(evaluated(Augment(), photograph), photograph)


def test_of_a_photograph_evaluation_sees_the_middle(photograph):
    marked = photograph.copy()
    # 87.5 % of the shorter side, in the middle: rows 27 to 400, columns 133 to 507.
    marked[:20], marked[-20:], marked[:, :126], marked[:, -126:] = 0, 0, 0, 0
    augment = Augment(image_size=224)
    np.testing.assert_array_equal(evaluated(augment, marked), evaluated(augment, photograph))
    marked[:40] = 0
    assert not np.array_equal(evaluated(augment, marked), evaluated(augment, photograph))


def test_small_and_square_images_are_seen_whole():
    for size in (8, 64):
        corner = np.zeros((size, size, 1), np.uint8)
        corner[: size // 8, : size // 8] = 255
        assert evaluated(Augment(image_size=16), corner)[:2, :2].mean() > 150


def test_without_augmentation_training_sees_what_evaluation_sees(photograph):
    augment = Augment(image_size=32)
    np.testing.assert_array_equal(trained(augment, photograph)['image'], evaluated(augment, photograph))


def square(places=(3, 3), size=8):
    image = np.zeros((size, size, 1), np.uint8)
    image[places[0] : places[0] + 2, places[1] : places[1] + 2] = 255
    return image


def centre(image):
    """Of the ink, `(x, y)` in parts of the width and height."""
    ink = image[..., 0].astype(float)
    return [((np.arange(len(sums)) + 0.5) @ sums / sums.sum()) / len(sums) for sums in (ink.sum(0), ink.sum(1))]


@pytest.mark.parametrize('size', [(8, 8), (16, 16), (24, 16)])
def test_a_shift_moves_the_ink_by_that_much(size):
    for shift in ((0.0, 0.0), (0.125, -0.25)):
        moved = affine(square(), size, angle=0.0, zoom=1.0, shift=np.array(shift))
        assert moved.shape == (*size, 1)
        np.testing.assert_allclose(centre(moved), (0.5 - shift[0], 0.5 - shift[1]), atol=0.01)


def test_a_zoom_makes_it_larger_and_a_quarter_turn_turns():
    plain, large = (affine(square(), (32, 32), 0.0, zoom, np.zeros(2)).astype(float).sum() for zoom in (1.0, 1.25))
    np.testing.assert_allclose(large / plain, 1.25**2, rtol=0.05)
    turned = affine(square((3, 5)), (8, 8), np.pi / 2, 1.0, np.zeros(2))
    np.testing.assert_allclose(centre(turned), (0.5, 0.75) if centre(turned)[1] > 0.5 else (0.5, 0.25), atol=0.01)


def test_a_large_photograph_is_not_turned_pixel_by_pixel(photograph):
    """Every second pixel would be noise where the mean is smooth."""
    noisy = rng().integers(0, 256, (400, 400, 1), np.uint8)
    found = trained(Augment(image_size=20, rotate=5), noisy)['image'][4:-4, 4:-4]
    assert found.std() < 15


@pytest.mark.parametrize('length', [2, 3, 8, 32])
def test_reflected_is_the_border_of_numpy(length):
    for pad in (0, 1, 4, 9):
        padded = np.pad(np.arange(length), pad, mode='reflect')
        for start in range(2 * pad + 1):
            np.testing.assert_array_equal(reflected(start - pad, length), padded[start : start + length])


def test_a_padded_crop_comes_from_anywhere():
    image = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode='reflect')
    windows = {padded[y : y + 6, x : x + 6].tobytes() for y in range(5) for x in range(5)}
    seen = {trained(Augment(pad_crop=2), image, seed)['image'].tobytes() for seed in range(300)}
    assert seen == windows and len(windows) == 25


def test_half_of_all_images_are_mirrored(photograph):
    flips = [
        np.array_equal(trained(Augment(flip=0.5), photograph, i)['image'], photograph[:, ::-1]) for i in range(400)
    ]
    assert 0.4 < np.mean(flips) < 0.6


def test_random_boxes_have_the_area_and_shape_asked_for():
    boxes = [random_box(300, 400, (0.2, 0.5), (0.5, 2.0), rng(seed)) for seed in range(500)]
    left, top, right, bottom = np.array(boxes).T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 400 and bottom.max() <= 300
    area, shape = (right - left) * (bottom - top) / 120_000, (right - left) / (bottom - top)
    assert 0.19 < area.min() < 0.23 and 0.46 < area.max() < 0.51
    assert 0.49 < shape.min() < 0.6 and 1.7 < shape.max() < 2.02


def test_where_no_box_fits_the_middle_is_taken():
    assert random_box(4, 400, (0.9, 1.0), (0.75, 1.33), rng()) is None
    assert middle_box(4, 400, (0.75, 1.25)) == (197, 0, 202, 4)
    assert middle_box(400, 4, (0.5, 1.25)) == (0, 196, 4, 204)
    assert middle_box(300, 400, (0.75, 4 / 3)) == (0, 0, 400, 300)


def test_erasing_leaves_the_rest_alone(photograph):
    parts = []
    for seed in range(60):
        changed = (erase(photograph, rng(seed)) != photograph).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.99  # noise may be right by chance
        parts.append(box.size / changed.size)
    assert 0.018 < min(parts) < 0.06 and 0.25 < max(parts) < 0.34
    slender = np.zeros((2, 900, 3), np.uint8)
    assert not erase(slender, rng()).all()


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(resized_crop=(0.0, 1.0)), r'augment\.resized_crop=\(0\.0, 1\.0\)'),
        (dict(resized_crop=(0.6, 0.3)), 'two rising numbers'),
        (dict(resized_crop=(0.6, 1.2)), r'augment\.resized_crop'),
        (dict(aspect=(0.0, 1.0)), r'augment\.aspect'),
        (dict(image_size=-1), r'augment\.image_size=-1 must be at least 0'),
        (dict(pad_crop=-1), r'augment\.pad_crop'),
        (dict(flip=1.5), r'augment\.flip=1\.5 must lie between 0 and 1'),
        (dict(erase=float('nan')), r'augment\.erase=nan'),
        (dict(zoom=1.0), r'augment\.zoom=1\.0'),
        (dict(rotate=200), r'augment\.rotate=200'),
        (dict(magnitude=11), r'augment\.magnitude=11'),
        (dict(resized_crop=(0.5, 1.0), rotate=3), 'exclude each other'),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        Augment(**options).check()


def test_kinds_make_sense():
    for augment in KINDS.values():
        augment.check()


def test_shape_is_that_of_the_data_unless_chosen():
    assert Augment().shape(Digits()) == (8, 8, 1)
    assert Augment(image_size=16).shape(Digits()) == (16, 16, 1)
    with pytest.raises(UserError, match=r'differ in size: choose --augment\.image-size'):
        Augment().shape(ImageFolder())
    assert Augment(image_size=224).shape(ImageFolder()) == (224, 224, 3)
    with pytest.raises(UserError, match=r'augment\.randaugment=2 works on bytes of 1 or 3 channels, .* uint8 of 4'):
        Augment(randaugment=2).shape(Synthetic(channels=4))


@pytest.mark.parametrize('augment', [KINDS['nothing'], KINDS['resized crop'], Augment(image_size=24, aspect=(1, 1))])
def test_least_is_enough_for_every_crop(augment):
    """The shorter side of an image may shrink to this without any crop being enlarged."""
    least = augment.least(training=True)
    for seed in range(200):
        for height, width in ((least, least), (least, 2 * least)):
            if augment.resized_crop != (1.0, 1.0):
                box = random_box(height, width, augment.resized_crop, augment.aspect, rng(seed))
                assert box is None or min(box[2] - box[0], box[3] - box[1]) >= 23  # rounded
    assert augment.least(training=False) * 0.875 >= 24
    assert dataclasses.replace(augment, image_size=0).least(training=True) == 0
