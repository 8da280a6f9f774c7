"""Videos in files: a few frames of each are decoded on access, turned the right way up, with channels as asked for."""

import math
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import numpy as np
from PIL import Image

from train.errors import UserError
from train.sources.pictures import Pictures
from train.sources.source import check_file

ENDINGS = ('.mp4', '.mov', '.mkv', '.webm', '.avi', '.gif')
# No other reader of FFmpeg's is let near files of unknown origin, least of all playlists, which open other files.
OPTIONS = {'format_whitelist': 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif', 'protocol_whitelist': 'file'}


@dataclass(frozen=True)
class Clips(Pictures):
    """Images that move: records of uint8 `[t h w c]`, unreadable ones treated as there.

    Attributes:
      frames: that are taken of each.
      stride: see `chosen`.
    """

    frames: int = 16
    stride: int = 2

    many: ClassVar[str] = 'clips'

    def read(self, file: str | BinaryIO, rng: np.random.Generator | None = None) -> np.ndarray:
        return decode(str(file), self.frames, self.stride, rng, self.channels, self.least)


def chosen(length: int, frames: int, stride: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Which frames of a clip are taken, rising `[frames]`.

    Args:
      length: frames that the clip has; its last one is repeated if these are too few.
      frames: how many are taken.
      stride: from one to the next. The first one is random, or such that they lie in the middle. 0 divides the clip
        into as many parts as frames are taken and takes a random one of each, or its middle (arXiv:1608.00859).
      rng: chooses at random; None does not.
    """
    if stride:
        spare = max(length - stride * (frames - 1) - 1, 0)
        first = spare // 2 if rng is None else int(rng.integers(spare + 1))
        numbers = first + stride * np.arange(frames)
    else:
        within = 0.5 if rng is None else rng.random(frames)
        numbers = ((np.arange(frames) + within) * length / frames).astype(int)
    return np.minimum(numbers, length - 1)


def decode(
    path: str,
    frames: int,
    stride: int,
    rng: np.random.Generator | None = None,
    channels: int = 3,
    least: int = 0,
) -> np.ndarray:
    """Some frames of a clip, turned as its display matrix says.

    Decoding begins at the last key frame before the first of them.

    Args:
      path: of an MP4, QuickTime, Matroska, WebM, AVI or GIF file.
      frames, stride, rng: see `chosen`.
      channels: 3 for colours, 1 for grey.
      least: pixels to which the shorter side is reduced where it is longer; 0 leaves the frames as they are.

    Returns:
      uint8 `[frames h w channels]`.

    Raises:
      ValueError: it is none of these, is damaged or has no frames.
      UserError: PyAV is not installed.
    """
    av = pyav()
    try:
        order, keys = _packets(av, path)
        wanted = chosen(len(order), frames, stride, rng)
        first = max((key for key in keys if key <= wanted[0]), default=0)
        found: dict[int, np.ndarray] = {}
        with _opened(av, path) as container:
            stream = container.streams.video[0]
            if first:
                container.seek(order[first], stream=stream)
            after = (frame for frame in container.decode(stream) if not first or frame.pts >= order[first])
            for number, frame in enumerate(after, first):
                if number in wanted:
                    found[number] = _pixels(frame, channels, least)
                if number >= wanted[-1]:
                    break
    except av.ArgumentError as error:
        raise ValueError('it is no MP4, QuickTime, Matroska, WebM, AVI or GIF file') from error
    except av.FFmpegError as error:
        raise ValueError(error.strerror) from error
    if not found:
        raise ValueError('none of the frames that are asked for can be decoded')
    # What the file announces and does not hold is the end of a clip, too.
    last = max(found)
    return np.stack([found[min(number, last)] for number in wanted.tolist()])


def pyav():
    """The module, or a `UserError` that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos need PyAV: pip install 'vit-linen[video]'") from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong is raised
    return av


def _opened(av, path: str):
    check_file(path)
    # `file:` keeps a colon in a name from being taken for a protocol.
    container = av.open(f'file:{path}', options=OPTIONS)
    if not container.streams.video:
        container.close()
        raise ValueError('it has no video')
    shape = container.streams.video[0].codec_context
    if Image.MAX_IMAGE_PIXELS and shape.width * shape.height > Image.MAX_IMAGE_PIXELS:
        container.close()
        raise ValueError(f'it has {shape.width}x{shape.height} pixels, more than {Image.MAX_IMAGE_PIXELS:,}')
    # Others are decoded at the same time, on the loader's threads.
    container.streams.video[0].codec_context.thread_count = 1
    return container


def _packets(av, path: str) -> tuple[list, list[int]]:
    """Times of the frames, in order, and which are key frames; none if the file does not tell the times."""
    with _opened(av, path) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        if len(packets) < stream.frames:
            raise ValueError(f'it ends after {len(packets)} of {stream.frames} frames')
        packets = [packet for packet in packets if not packet.is_discard]
        if not packets:
            raise ValueError('it has no frames')
        times = [packet.pts for packet in packets]
        if None in times:
            return times, []
        order = sorted(times)
        starts = {packet.pts for packet in packets if packet.is_keyframe}
        return order, [number for number, time in enumerate(order) if time in starts]


def _pixels(frame, channels: int, least: int) -> np.ndarray:
    """uint8 `[h w c]`."""
    scale = min(least / min(frame.width, frame.height), 1) if least else 1
    size = {'width': math.ceil(frame.width * scale), 'height': math.ceil(frame.height * scale)}
    pixels = frame.to_ndarray(format='rgb24' if channels == 3 else 'gray', interpolation='AREA', **size)
    return np.rot90(pixels.reshape(size['height'], size['width'], channels), round(frame.rotation / 90))
