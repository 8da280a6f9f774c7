"""What the model says about held-out images, mistakes first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.plots.style import FAINT, RED, figure, frame, grid, picture

ROWS, COLUMNS = 5, 8


def predictions(
    path: Path, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    """Every mistake that fits, framed, with the true class; then images that it got right.

    Args:
      images: `[b h w c]`.
      labels: `[b]`.
      probabilities: `[b classes]`.
      classes: their names.
    """
    said = probabilities.argmax(-1)
    wrong = np.flatnonzero(said != labels)
    right = np.flatnonzero(said == labels)
    shown = np.concatenate([wrong, right])[: ROWS * COLUMNS]
    with figure(
        path, 0.32 + 1.05 * COLUMNS, 0.9 + 1.41 * ROWS, 'Predictions',
        f'{len(right)} of {len(labels)} held-out images right; what the model says and how surely, mistakes first',
    ) as drawn:  # fmt: skip
        axes = grid(drawn, ROWS, COLUMNS, top=1.12, gap=0.36).ravel()
        for cell, i in zip(axes, shown, strict=False):
            picture(cell, images[i])
            text = f'{_short(classes[said[i]])}  {probabilities[i, said[i]]:.0%}'
            if said[i] == labels[i]:
                cell.set_title(text, size=8, weight='normal', color=FAINT, pad=3, loc='center')
            else:
                frame(cell, RED, 2.2)
                cell.set_title(f'{text}\nis {_short(classes[labels[i]])}', size=8, color=RED, pad=3, loc='center')
        for cell in axes[len(shown) :]:
            cell.set_visible(False)


def _short(name: str) -> str:
    """As much of a class's name as has room above an image."""
    return name if len(name) <= 12 else f'{name[:11]}…'
