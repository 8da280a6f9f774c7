"""Images of any kind become what the network knows."""

import numpy as np
import pytest
from PIL import Image

from train.commands.picture import as_seen, read_picture
from train.data.augment import Augment
from train.errors import UserError

RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


def saved(path, picture, **how):
    picture.save(path, **how)
    return str(path)


def test_grey_becomes_colour_and_colour_grey(tmp_path):
    grey = saved(tmp_path / 'grey.png', Image.fromarray(RAMP))
    np.testing.assert_array_equal(read_picture(grey, 1), RAMP[..., None])
    np.testing.assert_array_equal(read_picture(grey, 3), np.repeat(RAMP[..., None], 3, axis=2))
    colour = saved(tmp_path / 'colour.png', Image.new('RGB', (2, 2), (255, 0, 0)))
    np.testing.assert_array_equal(read_picture(colour, 1), np.full((2, 2, 1), 76))


def test_sixteen_bits_and_fractions_become_eight(tmp_path):
    deep = saved(tmp_path / 'deep.png', Image.fromarray(RAMP.astype(np.uint16) * 257))
    assert Image.open(deep).mode.startswith('I')
    np.testing.assert_array_equal(read_picture(deep, 1)[..., 0], RAMP)
    for name, values in (('fraction', RAMP / 255), ('bytes', RAMP)):
        file = saved(tmp_path / f'{name}.tiff', Image.fromarray(values.astype(np.float32)))
        np.testing.assert_array_equal(read_picture(file, 1)[..., 0], RAMP)


def test_what_shows_through_is_white(tmp_path):
    half = Image.new('RGBA', (2, 1), (0, 0, 255, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    expected = [[[0, 0, 255], [255, 255, 255]]]
    np.testing.assert_array_equal(read_picture(saved(tmp_path / 'alpha.png', half), 3), expected)
    palette = saved(tmp_path / 'palette.gif', half.convert('P'), transparency=half.convert('P').getpixel((1, 0)))
    np.testing.assert_array_equal(read_picture(palette, 3), expected)
    np.testing.assert_array_equal(read_picture(str(tmp_path / 'alpha.png'), 4)[0, 1], [0, 0, 0, 0])


def test_a_picture_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    file = saved(tmp_path / 'lying.png', Image.fromarray(RAMP), exif=exif)
    np.testing.assert_array_equal(read_picture(file, 1)[..., 0], np.rot90(RAMP, -1))


@pytest.mark.parametrize(
    'mode, ending', [('1', 'png'), ('CMYK', 'jpg'), ('YCbCr', 'jpg'), ('LA', 'png'), ('L', 'webp')]
)
def test_every_mode_is_read(mode, ending, tmp_path):
    file = saved(tmp_path / f'one.{ending}', Image.new('RGB', (9, 5), 'white').convert(mode))
    image = read_picture(file, 3)
    assert image.shape == (5, 9, 3) and image.dtype == np.uint8 and image.min() > 250


def test_what_is_no_picture_is_one_clear_message(tmp_path, monkeypatch):
    whole = saved(
        tmp_path / 'noise.png', Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    )
    (tmp_path / 'half.png').write_bytes((tmp_path / 'noise.png').read_bytes()[:2000])
    (tmp_path / 'text.jpg').write_text('no image')
    for name, message in (('none.png', 'no such file'), ('text.jpg', 'is no image'), ('half.png', 'damaged')):
        with pytest.raises(UserError, match=f'{name}.*{message}'):
            read_picture(str(tmp_path / name), 3)
    with pytest.raises(UserError, match='is a folder'):
        read_picture(str(tmp_path), 3)
    with pytest.raises(UserError, match='2 channels'):
        read_picture(whole, 2)
    for most in (3000, 1000):  # Pillow warns of the first and refuses the second
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', most)
        with pytest.raises(UserError, match=f'noise.png has more than {most:,} pixels'):
            read_picture(whole, 3)


def test_a_picture_is_seen_as_in_evaluation():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    augment = Augment(image_size=16)
    np.testing.assert_array_equal(as_seen(image, augment, (16, 16, 3)), augment.evaluate({'image': image})['image'])
    # Without a size in the recipe, the stored images have it.
    assert as_seen(image, Augment(), (32, 32, 3)).shape == (32, 32, 3)
    stored = image[:32, :32]
    np.testing.assert_array_equal(as_seen(stored, Augment(), (32, 32, 3)), stored)
    # The middle, where images are not square: here all columns of 20 rows.
    ramp = np.repeat(np.arange(40, dtype=np.uint8)[:, None], 60, axis=1)[..., None]
    seen = as_seen(ramp, Augment(), (10, 30, 1))
    assert seen.shape == (10, 30, 1)
    np.testing.assert_allclose(seen[:, 0, 0], np.arange(10.5, 30, 2), atol=1)
