"""What all plots share: one set of colours, one typography, images without blur."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

INK, FAINT, GRID = '#1f2933', '#7b8794', '#e4e7eb'
BLUE, ORANGE, RED, GREEN = '#2f6fb3', '#e07b39', '#c8323c', '#3a8a5f'

RC: dict[Any, Any] = {
    'figure.dpi': 160,
    'figure.facecolor': 'white',
    'font.family': 'DejaVu Sans',
    'font.size': 9,
    'text.color': INK,
    'axes.edgecolor': FAINT,
    'axes.labelcolor': INK,
    'axes.titlesize': 10,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': GRID,
    'xtick.color': FAINT,
    'ytick.color': FAINT,
    'legend.frameon': False,
    'image.interpolation': 'nearest',
    # A dollar in the name of a class begins no formula.
    'text.parse_math': False,
}


@contextmanager
def figure(path: Path, width: float, height: float, title: str, subtitle: str = '') -> Iterator[Figure]:
    """A figure of a size in inches, with a title of its own above, written when the block ends.

    The axes of the block have all but the topmost 0.75 inches.
    """
    with plt.rc_context(RC):
        drawn = plt.figure(figsize=(width, height))
        drawn.text(0.16 / width, 1 - 0.17 / height, title, size=13, weight='bold', va='top')
        drawn.text(0.16 / width, 1 - 0.45 / height, subtitle, size=9, color=FAINT, va='top')
        yield drawn
        for text in drawn.findobj(Text):  # names of classes may have bytes that are no letters
            text.set_text(text.get_text().encode(errors='backslashreplace').decode())
        drawn.savefig(path)
        plt.close(drawn)


def grid(drawn: Figure, rows: int, columns: int, *, top: float = 0.85, left: float = 0.16, right: float = 0.16,
         bottom: float = 0.16, gap: float = 0.08) -> np.ndarray:  # fmt: skip
    """Axes `[rows columns]`; all lengths in inches."""
    width, height = drawn.get_size_inches()
    cell = (width - left - right - gap * (columns - 1)) / columns, (height - top - bottom - gap * (rows - 1)) / rows
    return drawn.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw=dict(
            left=left / width,
            right=1 - right / width,
            top=1 - top / height,
            bottom=bottom / height,
            wspace=gap / cell[0],
            hspace=gap / cell[1],
        ),
    )


def picture(axes: Axes, image: np.ndarray, **how) -> None:
    """An image `[h w]` or `[h w c]` without ticks; one channel is drawn as ink on paper."""
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim == 2:
        how = {'cmap': 'gray_r', **how}
    axes.imshow(image, **how)
    frame(axes, GRID)


def frame(axes: Axes, colour: str, width: float = 0.8) -> None:
    """No ticks, and a border of this colour."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)
