"""Where the model looks: attention of the last block, and attention rollout."""

from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patheffects import withStroke

from train.grids import on_grid
from train.plots.style import FAINT, figure, grid, picture
from vit_flax.blocks.grids import TokenGrid

HEADS = 6


def attention(path: Path, images: np.ndarray, titles: list[str], maps: np.ndarray, tokens: TokenGrid) -> None:
    """One row per image: itself, every head of the last block, their mean, and the rollout.

    Args:
      images: `[b h w c]`.
      titles: one per image.
      maps: attention `[b layers e n n]`.
      tokens: the grid of the keys.
    """
    last = maps[:, -1]
    columns = [*np.moveaxis(last[:, :HEADS], 1, 0), last.mean(1), rollout(maps)]
    names = [*(f'head {i + 1}' for i in range(min(HEADS, last.shape[1]))), 'all heads', 'rollout']
    source = 'from the class token' if tokens.prefix else 'from all patches on average'
    cell = 1.05
    needed = 1.0 + cell * (len(columns) + 1)
    # The words above need this much.
    width = max(needed, 6.6)
    with figure(
        path, width, 1.15 + cell * len(images), 'Attention',
        f'last block, {source} to each patch; rollout: through all {maps.shape[1]} blocks (arXiv:2005.00928)',
    ) as drawn:  # fmt: skip
        axes = grid(drawn, len(images), len(columns) + 1, top=1.05, right=0.9 + width - needed)
        for row, image, title in zip(axes, images, titles, strict=True):
            picture(row[0], image)
            outline = [withStroke(linewidth=2, foreground='white')]
            row[0].text(
                0.04, 0.96, title, transform=row[0].transAxes, va='top', size=8, weight='bold', path_effects=outline
            )
        for column, name, weights in zip(axes.T[1:], names, columns, strict=True):
            column[0].set_title(name, loc='center', size=9, weight='normal')
            for cell_axes, image, of_image in zip(column, images, weights, strict=True):
                seen = on_grid(of_image, tokens)
                overlay(cell_axes, image, seen / seen.max())
        axes[0, 0].set_title('image', loc='center', size=9, weight='normal')
        legend = drawn.add_axes((1 - (0.72 + width - needed) / width, 0.3, 0.14 / width, 0.4))
        bar = drawn.colorbar(ScalarMappable(Normalize(0, 1), 'inferno'), cax=legend, ticks=[0, 1])
        bar.ax.set_yticklabels(['none', 'most'], color=FAINT)
        bar.outline.set_visible(False)


def rollout(maps: np.ndarray) -> np.ndarray:
    """How much of each input token reaches each output token, `[b layers e n n] -> [b n n]`.

    Abnar and Zuidema, arXiv:2005.00928: heads averaged, half of each block passes by it unchanged.
    """
    flow = np.eye(maps.shape[-1])[None]
    for layer in range(maps.shape[1]):
        flow = (0.5 * maps[:, layer].mean(1) + 0.5 * np.eye(maps.shape[-1])) @ flow
    return flow


def overlay(axes, image: np.ndarray, weights: np.ndarray) -> None:
    """The weights `[rows columns]` as colour, under the contours of the image."""
    h, w = image.shape[:2]
    picture(axes, weights, cmap='inferno', vmin=0, vmax=1, extent=(-0.5, w - 0.5, h - 0.5, -0.5))
    ink = image.mean(-1)
    axes.contour(ink, levels=[(ink.min() + ink.max()) / 2], colors='white', linewidths=0.9)
