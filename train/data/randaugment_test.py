"""RandAugment: its fourteen operations on real photographs, grey and in colour."""

import numpy as np
import pytest
from PIL import Image

from train.data.randaugment import OPERATIONS, randaugment

NAMES = [
    'identity', 'autocontrast', 'equalize', 'posterize', 'solarize', 'colour', 'contrast', 'brightness', 'sharpness',
    'rotate', 'shear x', 'shear y', 'translate x', 'translate y',
]  # fmt: skip


@pytest.fixture(scope='module')
def photograph():
    from sklearn.datasets import load_sample_images

    return np.asarray(Image.fromarray(load_sample_images().images[0]).resize((96, 64)))


@pytest.mark.parametrize('name, operation', [*zip(NAMES, OPERATIONS, strict=True)])
@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_each_operation_keeps_the_kind_of_the_image(photograph, name, operation, mode):
    picture = Image.fromarray(photograph).convert(mode)
    for strength in (-1.0, -0.3, 0.0, 0.3, 1.0):
        found = operation(picture, strength)
        assert found.size == picture.size and found.mode == mode
    changed = not np.array_equal(np.asarray(operation(picture, 0.9)), np.asarray(picture))
    assert changed == (name != 'identity' and not (name == 'colour' and mode == 'L'))


@pytest.mark.parametrize('name', ['colour', 'contrast', 'brightness', 'sharpness', *NAMES[9:]])
def test_operations_that_go_both_ways_do_nothing_in_between(photograph, name):
    operation, picture = OPERATIONS[NAMES.index(name)], Image.fromarray(photograph)
    plain = photograph.astype(float)
    np.testing.assert_allclose(np.asarray(operation(picture, 0.0)), plain, atol=1)
    there, back = (np.asarray(operation(picture, s), float) for s in (0.9, -0.9))
    assert np.abs(there - back).mean() > 2


def test_a_translation_goes_as_far_as_it_says(photograph):
    moved = np.asarray(OPERATIONS[NAMES.index('translate x')](Image.fromarray(photograph), 20 / (0.45 * 96)))
    np.testing.assert_allclose(moved[:, :75].astype(int), photograph[:, 20:95], atol=3)
    assert (moved[:, 77:] == 128).all()


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, as `(operation, strength)`; no image changes."""
    found = []

    def noted(number):
        def operation(picture, strength):
            found.append((number, strength))
            return picture

        return operation

    monkeypatch.setattr('train.data.randaugment.OPERATIONS', [noted(i) for i in range(len(NAMES))])
    return found


def test_strength_varies_around_the_magnitude(photograph, drawn):
    generator = np.random.default_rng(0)
    randaugment(photograph, generator, 1000, magnitude=6.0, spread=0.5)
    strengths = np.array([strength for _, strength in drawn])
    assert len(strengths) == 1000 and 0.4 < (strengths > 0).mean() < 0.6
    np.testing.assert_allclose((np.abs(strengths).mean(), np.abs(strengths).std()), (0.6, 0.05), atol=0.01)
    drawn.clear()
    randaugment(photograph, generator, 50, magnitude=10.0, spread=3.0)
    assert max(abs(strength) for _, strength in drawn) == 1.0


def test_all_operations_are_drawn(photograph, drawn):
    randaugment(photograph, np.random.default_rng(0), 2800, 9.0, 0.5)
    assert (np.abs(np.bincount([number for number, _ in drawn]) - 200) < 60).all()
