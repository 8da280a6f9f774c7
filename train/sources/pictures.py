"""Images in files of any size and mode: decoded on access, turned the right way up, with channels as asked for."""

import dataclasses
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, Literal, Self

import numpy as np
from PIL import Image, ImageOps

from train.data.pillow import in_mode, open_picture, to_array
from train.errors import UserError
from train.sources.source import Record

Corrupt = Literal['refuse', 'skip']

ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')
# No other decoder of Pillow's is let near files of unknown origin.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP')

# What Pillow raises for files that are cut off, empty, something else, or huge.
UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

# So many unreadable images in a row are a broken data set.
ENOUGH = 100

# Of the photographs of ImageNet; near enough for others.
MEAN, STD = {3: (0.485, 0.456, 0.406), 1: (0.449,)}, {3: (0.229, 0.224, 0.225), 1: (0.226,)}


@dataclass(frozen=True)
class Pictures(Sequence[Record]):
    """Records from files.

    With `corrupt='skip'` the next readable image stands in for an unreadable one, and every record has an int32
    `skipped`: 0, or one more than the index of the image that it stands in for. Which one that is depends on the
    files alone, so that threads, processes and hosts agree.

    Attributes:
      items: pairs of a path, or a file that is opened anew on each access, and a label.
      classes: labels must be below.
      where: name of the data set, for messages about files without a path.
      channels: 3 or 1.
      corrupt: what happens to an unreadable image.
      least: pixels that the shorter side needs; a JPEG may then be decoded at a half, quarter or eighth of its size,
        which is faster. 0 decodes it whole.
    """

    items: Sequence[tuple[str | BinaryIO, int]]
    classes: int
    where: str
    channels: int = 3
    corrupt: Corrupt = 'refuse'
    least: int = 0

    many: ClassVar[str] = 'images'

    def needing(self, least: int) -> Self:
        """The same images, decoded no larger than needed."""
        return dataclasses.replace(self, least=least)

    def read(self, file: str | BinaryIO, rng: np.random.Generator | None = None) -> np.ndarray:
        """One of them, uint8; where there is something to choose, such as which frames, `rng` does so in training.

        Raises:
          UNREADABLE: any of these.
        """
        return decode(file, self.channels, self.least)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        return self.draw(index, None)

    def draw(self, index: int, rng: np.random.Generator | None) -> Record:
        """The record at `index`, in training with what `rng` chooses of it."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        tries = min(len(self), ENOUGH) if self.corrupt == 'skip' else 1
        for at in range(index, index + tries):
            at %= len(self)
            file, label = self.items[at]
            if not 0 <= label < self.classes:
                raise UserError(f'{self.name(at)}: label {label} is out of range for {self.classes} classes')
            try:
                image = self.read(file, rng)
            except UNREADABLE as error:
                failed = error
                continue
            record = {'image': image, 'label': np.int32(label)}
            return {**record, 'skipped': np.int32(at != index and index + 1)} if self.corrupt == 'skip' else record
        if self.corrupt == 'skip':
            raise UserError(f'{self.name(index)} cannot be read, and neither can the {tries - 1} {self.many} after it')
        raise UserError(
            f'{self.name(index)} cannot be read: {_reason(failed)}; mend or remove it, or pass over such '
            f'{self.many} with --data.corrupt skip'
        ) from failed

    def name(self, index: int) -> str:
        """The path of an image, or which one it is."""
        file, _ = self.items[index]
        return file if isinstance(file, str) else f'image {index} of {self.where}'

    def why(self, index: int) -> str:
        """What is wrong with an image; empty if nothing is."""
        try:
            self.read(self.items[index][0])
        except UNREADABLE as error:
            return _reason(error)
        return ''


def check_options(held_out: float, channels: int, corrupt: str) -> None:
    """Raises a `UserError` if an option of a data set of images makes no sense."""
    if not 0 < held_out < 1:
        raise UserError(f'data.held_out={held_out} must be above 0 and below 1')
    if channels not in MEAN:
        raise UserError(f'data.channels={channels} must be 3 or 1')
    if corrupt not in ('refuse', 'skip'):
        raise UserError(f"data.corrupt={corrupt!r} must be 'refuse' or 'skip'")


def decode(file: str | BinaryIO, channels: int = 3, least: int = 0) -> np.ndarray:
    """One image, turned as its EXIF tag says.

    Args:
      file: a path or an open file: JPEG, PNG, WebP or BMP.
      channels: 3 for colours, 1 for grey. What shows through is laid on white.
      least: see `Pictures`.

    Returns:
      uint8 `[h w channels]`.

    Raises:
      UNREADABLE: any of these.
    """
    with open_picture(file, FORMATS) as opened:
        if least:
            scale = least / min(opened.size)
            opened.draft(None, (math.ceil(opened.width * scale), math.ceil(opened.height * scale)))
        ImageOps.exif_transpose(opened, in_place=True)
        return to_array(in_mode(opened, 'RGB' if channels == 3 else 'L'))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return 'it is no JPEG, PNG, WebP or BMP'
    return ' '.join(str(error).split()) or type(error).__name__
