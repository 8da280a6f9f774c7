"""Users' own arrays, from Python and from a file; the example of docs/data.md."""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest

from train.config import from_json, to_json
from train.data.stream import train_batches
from train.errors import UserError
from train.recipes.digits import CONFIG
from train.setup import set_up
from train.sources.arrays import from_arrays
from train.sources.npz import Npz
from vit_flax.weights.formats import common

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 200, (20, 6, 5, 3), np.uint8), np.arange(20) % 4
FLOATS = RNG.normal(size=(20, 6, 5, 3))


def test_images_and_labels_as_they_were_given():
    source = from_arrays(IMAGES, LABELS, IMAGES[:7], LABELS[:7], classes=('a', 'b', 'c', 'd'))
    assert source.shape == (6, 5, 3) and source.classes == ('a', 'b', 'c', 'd') and source.dtype == np.uint8
    train, val = source.records('train'), source.records('val')
    assert (len(train), len(val)) == (20, 7)
    np.testing.assert_array_equal(train[11]['image'], IMAGES[11])
    assert train[11]['label'] == 3 and train[11]['label'].dtype == np.int32


def test_mean_and_deviation_are_those_of_the_training_images():
    scaled = IMAGES / 255
    source = from_arrays(IMAGES, LABELS, IMAGES[:1], LABELS[:1])
    np.testing.assert_allclose(source.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(source.std, scaled.std((0, 1, 2)), rtol=1e-12)
    assert from_arrays(np.full_like(IMAGES, 9), LABELS).std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize('kind', [np.float64, np.float16, np.float32])
def test_floating_numbers_reach_the_model_as_they_are(kind):
    source = from_arrays(FLOATS.astype(kind), LABELS)
    config = dataclasses.replace(CONFIG, data=source, augment=dataclasses.replace(CONFIG.augment, image_size=0))
    plain = dataclasses.replace(config.augment, rotate=0, shift=0, zoom=0)
    (batch,) = train_batches(source.records('train'), plain, seed=0, batch_size=18, steps=1, loader=config.loader)
    assert batch['image'].dtype == np.float32
    seen = set_up(dataclasses.replace(config, model=dataclasses.replace(config.model, args={
        **config.model.args, 'patch_size': 1, 'depth': 1}))).scale(batch)['image']  # fmt: skip
    given = FLOATS.astype(kind).astype(np.float32)
    assert all((image == given).all((1, 2, 3)).any() for image in np.asarray(seen))


def test_grey_images_need_no_axis_of_channels():
    assert from_arrays(IMAGES[..., 0], LABELS).shape == (6, 5, 1)


def test_a_part_is_held_out_the_same_in_every_run():
    sources = [from_arrays(IMAGES, LABELS, held_out=0.2) for _ in range(2)]
    train, val = sources[0].records('train'), sources[0].records('val')
    assert (len(train), len(val)) == (16, 4)
    both = np.concatenate([train.images, val.images])
    assert len(np.unique(both, axis=0)) == 20
    np.testing.assert_array_equal(val.images, sources[1].records('val').images)
    assert len(from_arrays(IMAGES[:2], LABELS[:2], held_out=0.01).records('val')) == 1


@pytest.mark.parametrize(
    'arrays, message',
    [
        ((IMAGES[0], LABELS), r'train_images of shape \(6, 5, 3, 1\).*|must be 6 integers'),
        ((IMAGES[0, 0], LABELS), r'train_images of shape \(5, 3\) must be images \[n h w c\]'),
        ((IMAGES[:0], LABELS[:0]), 'train_images of shape'),
        ((IMAGES.astype(int), LABELS), 'train_images of int64 must be uint8 from 0 to 255, or floating numbers'),
        ((np.where(FLOATS > 2, np.nan, FLOATS), LABELS), 'train_images have numbers that are not finite'),
        ((IMAGES, LABELS[:9]), r'train_labels, int64 of shape \(9,\), must be 20 integers'),
        ((IMAGES, LABELS / 2), r'train_labels, float64 of shape \(20,\), must be 20 integers'),
        ((IMAGES, LABELS - 1), 'train_labels: label -1 is out of range, there are 3 classes'),
        ((IMAGES, LABELS, IMAGES), 'val_images and val_labels belong together'),
        ((IMAGES, LABELS, IMAGES[:, 1:], LABELS), r'train_images are uint8\[6, 5, 3\], val_images uint8\[5, 5, 3\]'),
        ((IMAGES, LABELS, FLOATS, LABELS), r'val_images float32\[6, 5, 3\]: they must be alike'),
        ((IMAGES, LABELS, IMAGES, LABELS, 'abc'), 'label 3 is out of range, there are 3 classes: 0 to 2'),
        ((IMAGES, LABELS, IMAGES, LABELS + 1, 'abcd'), 'val_labels: label 4 is out of range'),
        ((IMAGES, LABELS * 10**12), 'label 3000000000000 is above the number of images, 20: number the classes from 0'),
        (
            (IMAGES, np.where(LABELS > 2, np.uint64(2**64 - 1), LABELS.astype(np.uint64))),
            'label 18446744073709551615 is above',
        ),
        ((IMAGES, LABELS > 1), r'train_labels, bool of shape \(20,\), must be 20 integers'),
        ((IMAGES, LABELS.astype('m8[s]')), 'train_labels, timedelta64'),
        ((IMAGES, LABELS.astype(str)), 'train_labels, <U21'),
        ((IMAGES, np.where(LABELS > 2, np.nan, LABELS)), 'train_labels, float64'),
        ((FLOATS * 1e300, LABELS), 'train_images have numbers that are not finite'),
        ((IMAGES[:1], LABELS[:1]), 'held_out=0.1 of 1 images leaves nothing'),
        ((IMAGES, LABELS, None, None, (), 1.0), 'held_out=1.0 of 20 images leaves nothing'),
    ],
)
def test_arrays_that_do_not_fit(arrays, message):
    with pytest.raises(UserError, match=message) as refused:
        from_arrays(*arrays)
    assert '\n' not in str(refused.value)


def test_a_run_knows_its_arrays_again():
    source, same = from_arrays(IMAGES, LABELS), from_arrays(IMAGES.copy(), LABELS)
    changed = IMAGES.copy()
    changed[3, 2, 1, 0] += 1
    others = (
        from_arrays(changed, LABELS),
        from_arrays(IMAGES, (LABELS + 1) % 4),
        from_arrays(IMAGES, LABELS, classes='abcd'),
    )
    assert source == same and len({source, *others}) == 4
    written = to_json(dataclasses.replace(CONFIG, data=source))
    assert written['data'] == {'name': 'arrays', 'digest': source.digest}
    with pytest.raises(UserError, match='arrays in memory: continue it from Python'):
        from_json(written)


def test_npz(tmp_path):
    file = tmp_path / 'mine.npz'
    np.savez(
        file, train_images=IMAGES, train_labels=LABELS, val_images=IMAGES[:3], val_labels=LABELS[:3], classes=[*'abcd']
    )
    source = Npz(path=str(file))
    source.check()
    given = from_arrays(IMAGES, LABELS, IMAGES[:3], LABELS[:3], classes='abcd')
    for name in ('shape', 'classes', 'mean', 'std', 'dtype'):
        assert getattr(source, name) == getattr(given, name)
    np.testing.assert_array_equal(source.records('val').images, IMAGES[:3])
    assert from_json(to_json(dataclasses.replace(CONFIG, data=source))).data == source


def test_npz_without_a_held_out_part(tmp_path):
    np.savez_compressed(tmp_path / 'mine.npz', train_images=IMAGES, train_labels=LABELS)
    assert len(Npz(path=str(tmp_path / 'mine.npz'), held_out=0.5).records('val')) == 10


@pytest.mark.parametrize(
    'write, message',
    [
        (lambda f: None, r"data\.path='.*mine\.npz' is not a file: write it with np\.savez"),
        (lambda f: f.write_bytes(b''), 'is damaged'),
        (lambda f: f.write_bytes(b'PK\3\4 and more'), 'is damaged'),
        (lambda f: np.savez(f, x=IMAGES), r'has no train_images, it has x: write it with np\.savez'),
        (lambda f: np.savez(f, train_images=IMAGES), 'has no train_labels, it has train_images'),
        (lambda f: np.savez(f, train_images=IMAGES, train_labels=LABELS[1:]), r'mine\.npz: train_labels'),
        (lambda f: np.savez(f, train_images=np.array([{}], object)), 'is damaged: Object arrays cannot be loaded'),
        (lambda f: np.save(f.open('wb'), IMAGES), 'is one array without a name'),
    ],
)
def test_npz_that_is_wrong(tmp_path, write, message):
    write(tmp_path / 'mine.npz')
    with pytest.raises(UserError, match=message):
        Npz(path=str(tmp_path / 'mine.npz')).records('train')


def bomb(f):
    """Megabytes of zeros in kilobytes."""
    np.savez_compressed(f, train_images=np.zeros((2, 2**10, 2**11, 1), np.uint8), train_labels=LABELS[:2])


def claiming(f, claim=b'(99, 6, 5, 3)'):
    """An array whose header tells of more numbers than there are."""
    np.savez(f, train_images=IMAGES, train_labels=LABELS)
    said = str(IMAGES.shape).encode()
    f.write_bytes(f.read_bytes().replace(said + b', }' + b' ' * (len(claim) - len(said)), claim + b', }'))


def encrypted(f):
    np.savez(f, train_images=IMAGES, train_labels=LABELS)
    data = bytearray(f.read_bytes())
    for magic, place in ((b'PK\3\4', 6), (b'PK\1\2', 8)):
        data[data.index(magic) + place] |= 1
    f.write_bytes(data)


@pytest.mark.parametrize(
    'write, message',
    [
        (bomb, 'inflate to 4 MiB'),
        (claiming, 'is damaged: '),
        (lambda f: claiming(f, b'(10**12, 6, 5, 3)'), 'is damaged: '),
        (encrypted, 'encrypted'),
        (lambda f: np.savez(f, train_images=IMAGES, train_labels=LABELS, classes='abcd'), 'must be a list of names'),
        (lambda f: np.savez(f, train_images=IMAGES, train_labels=LABELS, classes=[[1.0]]), 'must be a list of names'),
        (os.mkfifo, 'is not a file'),
    ],
)
def test_npz_that_is_a_trap(tmp_path, write, message, monkeypatch):
    monkeypatch.setattr(common, 'MAX_INFLATED', 2**20)
    write(tmp_path / 'mine.npz')
    with pytest.raises(UserError, match=message) as refused:
        Npz(path=str(tmp_path / 'mine.npz')).records('train')
    assert '\n' not in str(refused.value)


def test_an_npz_with_any_damage_is_read_right_or_refused(tmp_path):
    """Every byte of its directory and headers, and some of its numbers, changed in turn."""
    file, draw = tmp_path / 'mine.npz', np.random.default_rng(0)
    for save in (np.savez, np.savez_compressed):
        save(file, train_images=IMAGES, train_labels=LABELS, val_images=IMAGES[:3], val_labels=LABELS[:3])
        whole, refused = file.read_bytes(), 0
        for place in draw.permutation(len(whole))[:150]:
            data = bytearray(whole)
            data[place] ^= draw.integers(1, 256)
            file.write_bytes(data[: draw.integers(len(data))] if place % 9 == 0 else data)
            try:
                found = Npz(path=str(file)).records('train')
            except UserError:
                refused += 1
            else:
                np.testing.assert_array_equal(found.images, IMAGES)
        assert refused > 75


@pytest.mark.parametrize('held_out', [0.0, 1.0])
def test_npz_checks_its_options(held_out):
    with pytest.raises(UserError, match=rf'data\.held_out={held_out}'):
        Npz(held_out=held_out).check()


@pytest.mark.exhaustive
def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / 'docs' / 'data.md').read_text()
    (example,) = re.findall(r'```python\n(.*?from_arrays.*?)```', page, flags=re.DOTALL)
    assert len(example.splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace('steps=300', 'steps=3'), 'docs/data.md', 'exec'), {})
    assert (tmp_path / 'runs' / 'mine' / 'summary.json').exists()
