"""Cuts videos into short clips, a class for each video: the first three quarters to train on, the rest held out."""

import sys
from fractions import Fraction
from pathlib import Path

import av

# Frames of a clip, and pixels of its shorter side.
FRAMES, SIDE = 16, 144


def read(video: Path) -> tuple[list[av.VideoFrame], Fraction]:
    """All frames, made small, and how many there are in a second."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        scale = SIDE / min(stream.width, stream.height)
        # The codec wants even numbers.
        width, height = (2 * round(scale * side / 2) for side in (stream.width, stream.height))
        frames = [frame.reformat(width, height, 'yuv420p', interpolation='AREA') for frame in container.decode(stream)]
        return frames, stream.average_rate or Fraction(25)


def write(path: Path, frames: list[av.VideoFrame], rate: Fraction) -> None:
    """An H.264 file of these frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=rate, options={'crf': '18'})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, 'yuv420p'
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base, frame.pict_type = number, 1 / rate, 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def main(folder: str, videos: list[str]) -> None:
    for video in map(Path, videos):
        frames, rate = read(video)
        count = len(frames) // FRAMES
        kept = round(count * 3 / 4)
        for number in range(count):
            split = 'train' if number < kept else 'val'
            clip = frames[FRAMES * number : FRAMES * (number + 1)]
            write(Path(folder, split, video.stem, f'{number:03}.mp4'), clip, rate)
        print(f'{video.stem}: {kept} clips of {FRAMES} frames in {folder}/train, {count - kept} in {folder}/val')


if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit('usage: python cut.py FOLDER VIDEO...')
    main(sys.argv[1], sys.argv[2:])
