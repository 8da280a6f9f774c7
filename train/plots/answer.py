"""What the model says about one image, and where it looked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.plots.style import BLUE, FAINT, GRID, INK, figure, frame, grid, picture

CELL = 2.6


def answer(
    path: Path,
    title: str,
    image: np.ndarray,
    seen: np.ndarray,
    maps: Sequence[tuple[str, np.ndarray]],
    said: Sequence[tuple[str, float]],
) -> None:
    """The image, what the model saw of it, the maps over that, and the most probable classes as bars.

    Args:
      title: of the whole.
      image: the image `[h w c]`, uint8 or 0 to 1.
      seen: what the model saw of it `[h w c]`.
      maps: names, and attention to each patch `[rows columns]`, from 0 to 1.
      said: names of classes with their probability, the highest first.
    """
    panels = 2 + len(maps)
    width = 0.32 + panels * (CELL + 0.08) + 3.4
    with figure(path, width, 1.05 + CELL + 0.2, title, f'{said[0][0]}, {said[0][1]:.1%}') as drawn:
        cells = grid(drawn, 1, panels, top=1.05, right=3.5, bottom=0.2)[0]
        for cell, name, shown in ((cells[0], 'the image', image), (cells[1], 'what the model saw', seen)):
            _natural(cell, shown)
            cell.set_title(name, loc='center', size=9, weight='normal')
        for cell, (name, weights) in zip(cells[2:], maps, strict=True):
            _over(cell, seen, weights)
            cell.set_title(name, loc='center', size=9, weight='normal')
        _bars(drawn.add_axes((1 - 3.2 / width, 0.2 / (CELL + 1.25), 3.0 / width, CELL / (CELL + 1.25))), said)


def _natural(axes, image: np.ndarray) -> None:
    """As it is; white is white also where there is one channel."""
    picture(axes, image[..., :3] if image.shape[-1] > 2 else image[..., 0], cmap='gray', **_range(image))


def _range(image: np.ndarray) -> dict[str, float]:
    return {'vmin': 0, 'vmax': 255 if image.dtype == np.uint8 else 1}


def _over(axes, image: np.ndarray, weights: np.ndarray) -> None:
    """The weights as colour over the image in grey."""
    h, w = image.shape[:2]
    grey = image[..., :3].mean(-1)
    axes.imshow(grey, cmap='gray', **_range(image))
    axes.imshow(weights, cmap='inferno', vmin=0, vmax=1, alpha=0.6, extent=(-0.5, w - 0.5, h - 0.5, -0.5))
    frame(axes, GRID)


def _bars(axes, said: Sequence[tuple[str, float]]) -> None:
    places = np.arange(len(said))
    axes.barh(places, [1] * len(said), height=0.28, color=GRID)
    axes.barh(places, [probability for _, probability in said], height=0.28, color=BLUE)
    for place, (name, probability) in zip(places, said, strict=True):
        shown = name if len(name) <= 38 else f'{name[:37]}…'
        axes.text(0, place - 0.24, shown, va='bottom', color=INK, weight='bold' if place == 0 else 'normal')
        axes.text(1, place - 0.24, f'{probability:.1%}', va='bottom', ha='right', color=FAINT)
    axes.set(xlim=(0, 1), ylim=(len(said) - 0.5, -0.7))
    axes.axis('off')
