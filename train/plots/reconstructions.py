"""Reconstructions of masked patches."""

from pathlib import Path

import numpy as np

from train.plots.style import figure, grid, picture

# Neither paper nor ink.
HIDDEN = '#b9d3ee'


def reconstructions(path: Path, images: np.ndarray, masked: np.ndarray, predicted: np.ndarray) -> None:
    """One column per image: what the model sees of it, how it completes that, and the image itself.

    Args:
      images, masked, predicted: `[b h w c]`, from 0 to 1; NaN is hidden.
    """
    rows = (('what the model sees', masked), ('how it completes it', predicted), ('the image', images))
    cell, left = 1.2, 1.5
    with figure(
        path, max(0.32 + left + cell * len(images), 5.2), 0.95 + cell * len(rows), 'Reconstructions',
        'held-out images; what was visible is shown as it is',
    ) as drawn:  # fmt: skip
        width = drawn.get_size_inches()[0]
        right = width - left - cell * len(images)
        axes = grid(drawn, len(rows), len(images), top=0.8, left=left, right=right)
        for cells, (title, pictures) in zip(axes, rows, strict=True):
            for one, image in zip(cells, pictures, strict=True):
                # One scale of grey for all three rows.
                picture(one, _pierced(image), **({'vmin': 0, 'vmax': 1} if image.shape[-1] == 1 else {}))
                one.set_facecolor(HIDDEN)
            cells[0].set_ylabel(title, rotation=0, ha='right', va='center', labelpad=8)


def _pierced(image: np.ndarray) -> np.ndarray:
    """The image `[h w c]`, see-through where it is hidden."""
    if image.shape[-1] != 3:
        return image
    seen = np.isfinite(image).all(-1, keepdims=True)
    return np.concatenate([np.where(seen, image, 0), seen.astype(image.dtype)], axis=-1)
