"""Folders of images: of any size and mode, divided by name, and every way in which they can be wrong."""

import dataclasses
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.commands.picture import read_picture
from train.errors import UserError
from train.sources.image_folder import ImageFolder
from train.sources.pictures import decode


@pytest.fixture(scope='session')
def photographs():
    """Scikit-learn's two, as arrays."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def picture(path: Path, shade=0, size=(12, 10), mode='RGB') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade if mode in ('L', 'I;16') else (shade,) * len(mode)).save(path)
    return path


def labels(records):
    return [int(record['label']) for record in records]


def shades(records):
    return [int(record['image'][0, 0, 0]) for record in records]


def names(source, split):
    return [Path(path).name for path, _ in source.records(split).items]


@pytest.mark.parametrize('held_out', ['val', 'test'])
def test_folders_of_both_splits(tmp_path, held_out):
    picture(tmp_path / 'train' / 'dog' / 'b.png', 1)
    picture(tmp_path / 'train' / 'dog' / 'deep' / 'a.JPEG', 2)
    picture(tmp_path / 'train' / 'cat' / 'c.webp', 3)
    picture(tmp_path / held_out / 'dog' / 'e.bmp', 4)
    (tmp_path / 'train' / 'dog' / 'notes.txt').write_text('no image')
    (tmp_path / 'train' / 'dog' / '.b.png').write_text('of a file manager')
    (tmp_path / 'train' / '.thumbnails').mkdir()
    (tmp_path / held_out / 'cat').mkdir()
    source = ImageFolder(path=str(tmp_path))
    source.check()
    assert source.classes == ('cat', 'dog') and source.shape == (0, 0, 3)
    assert labels(source.records('train')) == [0, 1, 1] and labels(source.records('val')) == [1]
    assert names(source, 'train') == ['c.webp', 'b.png', 'a.JPEG'] and shades(source.records('val')) == [4]


def many(root: Path, count=60) -> ImageFolder:
    for i in range(count):
        picture(root / f'class {i % 2}' / f'{i}.png', i)
    return ImageFolder(path=str(root), held_out=0.25)


def test_a_held_out_part_depends_on_each_name_alone(tmp_path):
    source = many(tmp_path)
    train, val = (set(names(source, split)) for split in ('train', 'val'))
    assert not train & val and len(train | val) == 60 and 8 <= len(val) <= 22
    assert set(labels(source.records('val'))) == {0, 1}
    for name in ('7.png', '8.png', '30.png'):
        (tmp_path / f'class {int(name[:-4]) % 2}' / name).unlink()
    picture(tmp_path / 'class 0' / 'new.png')
    again = ImageFolder(path=str(tmp_path), held_out=0.25)
    assert set(names(again, 'val')) - {'new.png'} == val - {'7.png', '8.png', '30.png'}
    more = ImageFolder(path=str(tmp_path), held_out=0.5)
    assert set(names(more, 'val')) > set(names(again, 'val'))


def test_a_class_called_train(tmp_path):
    for name in ('train', 'plane'):
        for i in range(3):
            picture(tmp_path / name / f'{i}.png')
    assert ImageFolder(path=str(tmp_path)).classes == ('plane', 'train')


def test_of_few_pictures_one_is_held_out(tmp_path):
    picture(tmp_path / 'a' / '0.png')
    picture(tmp_path / 'a' / '1.png')
    picture(tmp_path / 'b' / '0.png')
    source = ImageFolder(path=str(tmp_path), held_out=0.01)
    assert labels(source.records('train')) == [0, 1] and labels(source.records('val')) == [0]


def test_one_picture_is_enough_if_another_is_held_out(tmp_path):
    picture(tmp_path / 'train' / 'a' / '0.png')
    picture(tmp_path / 'val' / 'a' / '0.png')
    source = ImageFolder(path=str(tmp_path))
    assert len(source.records('train')) == len(source.records('val')) == 1


@pytest.mark.parametrize(
    'files, message',
    [
        ((), r'has no images in folders of classes: give --data\.path a folder with train/CLASS/\*\.jpg'),
        (('a.png', 'b.png'), 'has no images in folders of classes'),
        (('train/a/0.png', 'val/c/'), 'val has no images in folders of classes'),
        (('a/0.png', 'b/'), r'b has no images \(.*\.jpg.*\): fill or remove the folder'),
        (('train/a/0.png', 'train/b/', 'val/a/0.png'), 'train/b has no images'),
        (('train/cat/0.png', 'val/cats/0.png'), "val/cats: there is no such class to train on, did you mean 'cat'"),
        (('a/0.png',), 'has one image of each class, so that none can be held out'),
        (('a/0.png', 'b/0.png'), 'has one image of each class, so that none can be held out'),
    ],
)
def test_folders_that_are_wrong(tmp_path, files, message):
    for file in files:
        if file.endswith('/'):
            (tmp_path / file).mkdir(parents=True)
        else:
            picture(tmp_path / file)
    with pytest.raises(UserError, match=message) as refused:
        ImageFolder(path=str(tmp_path)).records('train')
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(held_out=0.0), r'data\.held_out=0\.0 must be above 0'),
        (dict(held_out=1.0), r'data\.held_out=1\.0'),
        (dict(channels=4), r'data\.channels=4 must be 3 or 1'),
        (dict(corrupt='ignore'), "data.corrupt='ignore' must be 'refuse' or 'skip'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        ImageFolder(**options).check()


def test_no_folder():
    with pytest.raises(UserError, match=r"data\.path='nowhere' is not a folder: give --data\.path"):
        _ = ImageFolder(path='nowhere').classes


@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA', 'P', 'CMYK', 'I;16', '1', 'LA'])
@pytest.mark.parametrize('channels', [1, 3])
def test_channels_are_converted(tmp_path, photographs, mode, channels):
    original = Image.fromarray(photographs[0]).resize((32, 24))
    if mode == 'I;16':
        stored = Image.fromarray(np.asarray(original.convert('L'), np.uint16) * 256 + 77)
    else:
        stored = original.convert(mode)
    file = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
    stored.save(file, quality=95)
    found = decode(str(file), channels)
    assert found.shape == (24, 32, channels) and found.dtype == np.uint8
    grey = np.asarray(original.convert('L'), float)
    # Black and white, dithered, is right on average.
    allowed = 90 if mode == '1' else 12
    assert np.abs(found.mean(-1) - grey).mean() < allowed
    assert abs(found.mean() - grey.mean()) < 8
    if channels == 3 and mode in ('RGB', 'RGBA'):
        np.testing.assert_array_equal(found, np.asarray(original))


@pytest.mark.parametrize('orientation, turn', [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_turned_as_the_camera_says(tmp_path, photographs, orientation, turn):
    original = np.asarray(Image.fromarray(photographs[0]).resize((64, 48)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(original).save(tmp_path / 'a.jpg', quality=95, subsampling=0, exif=exif)
    found = decode(str(tmp_path / 'a.jpg')).astype(float)
    expected = np.rot90(original, turn)
    assert found.shape == expected.shape and np.abs(found - expected).mean() < 4


@pytest.mark.parametrize('least, size', [(0, (427, 640)), (427, (427, 640)), (213, (214, 320)), (100, (107, 160))])
def test_a_photograph_is_decoded_no_larger_than_needed(tmp_path, photographs, least, size):
    Image.fromarray(photographs[0]).save(tmp_path / 'a.jpg')
    found = decode(str(tmp_path / 'a.jpg'), least=least)
    assert found.shape == (*size, 3) and min(found.shape[:2]) >= least
    small = np.asarray(Image.fromarray(photographs[0]).resize(size[::-1]), float)
    assert np.abs(found - small).mean() < 8


@pytest.fixture(scope='module')
def with_damage(tmp_path_factory, photographs):
    """Eight images, of which three in a row, and the last one, cannot be read."""
    root = tmp_path_factory.mktemp('damaged')
    for i in range(8):
        for split in ('train', 'val'):
            picture(root / split / 'a' / f'{i}.png', i)
    whole = root / 'whole.jpg'
    Image.fromarray(photographs[0]).save(whole)
    folder = root / 'train' / 'a'
    (folder / '2.png').write_bytes(whole.read_bytes()[:20000])
    (folder / '3.png').write_bytes(b'')
    (folder / '4.png').write_text('<svg/>')
    (folder / '7.png').write_bytes((folder / '6.png').read_bytes()[:-30])
    return ImageFolder(path=str(root))


@pytest.mark.parametrize(
    'index, message',
    [(2, r'2\.png cannot be read: image file is truncated'), (3, 'it is no JPEG, PNG, WebP or BMP'), (7, 'truncated')],
)
def test_an_unreadable_picture_is_refused_with_its_path(with_damage, index, message):
    records = with_damage.records('train')
    with pytest.raises(
        UserError, match=rf'train/a/{index}\.png cannot be read: .*{message[-9:]}.*--data\.corrupt skip'
    ):
        records[index]
    assert shades([records[1], records[5], records[-2]]) == [1, 5, 6]


def test_or_the_next_one_stands_in_for_it_and_says_so(with_damage):
    records = dataclasses.replace(with_damage, corrupt='skip').records('train')
    assert shades(records) == [0, 1, 5, 5, 5, 5, 6, 0]
    assert [int(record['skipped']) for record in records] == [0, 0, 3, 4, 5, 0, 0, 8]
    assert records[2]['skipped'].dtype == np.int32
    assert records.name(2).endswith('2.png') and 'truncated' in records.why(2) and not records.why(1)


def test_nothing_but_unreadable_pictures(tmp_path):
    for i in range(3):
        for split in ('train', 'val'):
            picture(tmp_path / split / 'a' / f'{i}.png').write_text('nothing')
    records = ImageFolder(path=str(tmp_path), corrupt='skip').records('train')
    with pytest.raises(UserError, match=r'a/1\.png cannot be read, and neither can the 2 images after it'):
        records[1]


def test_a_file_that_has_gone_is_unreadable(tmp_path):
    source = many(tmp_path / 'data', 8)
    records = source.records('train')
    shutil.rmtree(tmp_path / 'data')
    with pytest.raises(UserError, match=r'cannot be read: .*No such file'):
        records[0]


def test_no_bomb_goes_off(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 40)
    picture(tmp_path / 'train' / 'a' / '0.png')
    picture(tmp_path / 'val' / 'a' / '0.png')
    with pytest.raises(UserError, match=r'cannot be read: .*decompression bomb'):
        ImageFolder(path=str(tmp_path)).records('train')[0]


# ---------------------------------------------------------------------- what is no image of its own


def test_what_would_be_waited_for_is_no_picture(tmp_path):
    for split in ('train', 'val'):
        picture(tmp_path / split / 'a' / '0.png')
    folder = tmp_path / 'train' / 'a'
    os.mkfifo(folder / 'pipe.png')
    (folder / 'device.png').symlink_to('/dev/zero')
    with socket.socket(socket.AF_UNIX) as heard:
        heard.bind(os.path.relpath(folder / 'socket.png'))
    (folder / 'gone.png').symlink_to('nowhere')
    (folder / 'itself.png').symlink_to('itself.png')
    source = ImageFolder(path=str(tmp_path))
    records = source.records('train')
    assert len(records) == 6
    for index in range(1, 6):
        with pytest.raises(UserError, match=r'\.png cannot be read: .*(no file, but|No such file|symbolic links)'):
            records[index]
    skipping = dataclasses.replace(source, corrupt='skip').records('train')
    assert [int(record['skipped']) for record in skipping] == [0, *range(2, 7)]


def test_links_that_lead_back_end(tmp_path):
    for name in ('a', 'b'):
        for i in range(6):
            picture(tmp_path / name / 'deep' / f'{i}.png', i)
    (tmp_path / 'a' / 'deep' / 'up').symlink_to('..')
    (tmp_path / 'b' / 'itself').symlink_to('.')
    source = ImageFolder(path=str(tmp_path), held_out=0.5)
    found = [str(path) for split in ('train', 'val') for path, _ in source.records(split).items]
    assert len(found) == len({os.path.realpath(path) for path in found}) == 12
    assert not any('up' in path or 'itself' in path for path in found)


def test_elsewhere_may_be_linked_to(tmp_path):
    for i in range(3):
        picture(tmp_path / 'store' / f'{i}.png', i)
        (tmp_path / 'data' / 'a').mkdir(parents=True, exist_ok=True)
    (tmp_path / 'data' / 'a' / 'of one.png').symlink_to(tmp_path / 'store' / '1.png')
    (tmp_path / 'data' / 'b').symlink_to(picture(tmp_path / 'more' / '0.png').parent)
    source = ImageFolder(path=str(tmp_path / 'data'), held_out=0.01)
    with pytest.raises(UserError, match='has one image of each class'):
        source.records('train')
    (tmp_path / 'data' / 'a' / 'all').symlink_to(tmp_path / 'store')
    again = dataclasses.replace(source)
    assert labels(again.records('train')) + labels(again.records('val')) == [0, 0, 1, 0]


def symbolic(old: Path, new: Path) -> None:
    new.symlink_to(old)


@pytest.mark.parametrize('link', [symbolic, lambda old, new: new.hardlink_to(old)], ids=['symbolic', 'hard'])
def test_one_file_under_two_names_counts_once_and_has_one_class(tmp_path, link):
    for name in ('cat', 'dog'):
        for i in range(4):
            picture(tmp_path / name / f'{i}.png', i)
    link(tmp_path / 'cat' / '0.png', tmp_path / 'cat' / 'again.png')
    source = ImageFolder(path=str(tmp_path))
    assert len(source.records('train')) + len(source.records('val')) == 8
    link(tmp_path / 'cat' / '1.png', tmp_path / 'dog' / 'cat.png')
    with pytest.raises(UserError, match=r'cat/1\.png and .*dog/cat\.png are the same file'):
        dataclasses.replace(source).records('train')


@pytest.mark.parametrize('folder', ['dog', 'dog/all cats', 'dog/all'], ids=['class', 'within', 'root'])
def test_a_folder_under_two_names_has_one_class(tmp_path, folder):
    picture(tmp_path / 'cat' / '0.png')
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    (tmp_path / folder).symlink_to(tmp_path if folder == 'dog/all' else tmp_path / 'cat')
    with pytest.raises(UserError, match='are the same file'):
        ImageFolder(path=str(tmp_path)).records('train')


def test_what_is_trained_on_is_not_held_out(tmp_path):
    trained = picture(tmp_path / 'train' / 'a' / '0.png')
    (tmp_path / 'val' / 'a').mkdir(parents=True)
    (tmp_path / 'val' / 'a' / '1.png').symlink_to(trained)
    with pytest.raises(UserError, match=r'train/a/0\.png and .*val/a/1\.png are the same file'):
        ImageFolder(path=str(tmp_path)).records('train')


def test_training_takes_no_larger_pictures_than_predict(tmp_path, monkeypatch):
    """Pillow refuses what is twice as large as its own limit, of which it warns."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    for split in ('train', 'val'):
        picture(tmp_path / split / 'a' / '0.png')
    with pytest.raises(UserError, match=r'train/a/0\.png cannot be read: it has 12x10 pixels, more than 100'):
        ImageFolder(path=str(tmp_path)).records('train')[0]
    with pytest.raises(UserError, match='more than 100 pixels'):
        read_picture(str(tmp_path / 'train' / 'a' / '0.png'), 3)
