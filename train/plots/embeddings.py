"""What the embedding has learned: similarity of positions, and the filters of the patches."""

import math
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from train.plots.style import FAINT, figure, grid, picture

COLUMNS, FILTERS = 16, 64


def positions(path: Path, table: np.ndarray, patches: tuple[int, int]) -> None:
    """Cosine similarity of each patch's position with all others, as in figure 7 of arXiv:2010.11929.

    The colours span the similarities of different patches, since those of a small model are weak.

    Args:
      table: position embeddings `[n d]`; rows in front of the patches' are left out.
      patches: rows and columns of patches.
    """
    rows, columns = patches
    table = table[len(table) - rows * columns :]
    unit = table / np.linalg.norm(table, axis=-1, keepdims=True)
    similar = unit @ unit.T
    reach = math.ceil(10 * np.abs(similar - np.eye(len(similar))).max()) / 10
    similar = similar.reshape(rows, columns, rows, columns)
    cell = min(1.0, 8 / max(patches))
    width = max(1.7 + cell * columns, 5.7)
    side = (width - 1.7 - cell * columns) / 2
    with figure(
        path, width, 1.55 + cell * rows, 'Position embeddings',
        'cosine similarity of the position of a patch (dot) with all others',
    ) as drawn:  # fmt: skip
        axes = grid(drawn, rows, columns, top=0.9, left=0.55 + side, right=1.15 + side, bottom=0.6)
        for i in range(rows):
            for j in range(columns):
                picture(axes[i, j], similar[i, j], cmap='RdBu_r', vmin=-reach, vmax=reach)
                axes[i, j].plot(j, i, 'o', color='white', markersize=12 * cell / max(patches))
            axes[i, 0].set_ylabel(i + 1, rotation=0, va='center', labelpad=8, color=FAINT)
        for j in range(columns):
            axes[-1, j].set_xlabel(j + 1, color=FAINT)
        height = drawn.get_size_inches()[1]
        drawn.text((0.55 + side + cell * columns / 2) / width, 0.13 / height, 'column of the patch', ha='center')
        drawn.text((0.12 + side) / width, 0.5, 'row of the patch', rotation=90, va='center')
        legend(drawn, reach, side)


def filters(path: Path, kernel: np.ndarray, patch: tuple[int, int, int]) -> None:
    """Principal components of the patch embedding's filters, as in figure 7 of arXiv:2010.11929, and the filters.

    Args:
      kernel: `[(p q c) d]`.
      patch: p, q, c.
    """
    strongest = np.argsort(-np.linalg.norm(kernel, axis=0))[:FILTERS]
    shown = kernel[:, strongest].T
    components, strengths, _ = np.linalg.svd(kernel - kernel.mean(1, keepdims=True), full_matrices=False)
    components = components.T[:COLUMNS]
    share = (strengths**2 / (strengths**2).sum())[: len(components)]

    below = math.ceil(len(shown) / COLUMNS)
    with figure(
        path, 1.2 + 0.62 * COLUMNS, 2.33 + 0.62 * below, 'Patch embedding',
        f'{kernel.shape[1]} filters of {patch[0]}x{patch[1]} pixels',
    ) as drawn:  # fmt: skip
        width, height = drawn.get_size_inches()
        first = grid(drawn, 1, COLUMNS, top=1.2, right=1.04, bottom=height - 1.2 - 0.62)[0]
        rest = grid(drawn, below, COLUMNS, top=2.25, right=1.04)
        drawn.text(0.16 / width, 1 - 0.92 / height, 'principal components, and their share', va='top')
        drawn.text(0.16 / width, 1 - 2.03 / height, 'the strongest filters', va='top')
        for cell, part in zip(first, share, strict=False):
            cell.set_xlabel(f'{part:.0%}', size=7, color=FAINT, labelpad=2)
        for cells, values in ((first, components), (rest.ravel(), shown)):
            values = values.reshape(-1, *patch) / np.abs(values).max()
            for cell, one in zip(cells, values, strict=False):
                if patch[2] == 3:
                    picture(cell, 0.5 + 0.5 * one)
                else:
                    picture(cell, one.mean(-1), cmap='RdBu_r', vmin=-1, vmax=1)
            for cell in cells[len(values) :]:
                cell.set_visible(False)
        if patch[2] != 3:
            legend(drawn, 1, 0)


def legend(drawn: Figure, reach: float, side: float) -> None:
    """The scale of colours, `side` inches from the right margin."""
    width = drawn.get_size_inches()[0]
    place = drawn.add_axes((1 - (0.85 + side) / width, 0.3, 0.14 / width, 0.4))
    bar = drawn.colorbar(ScalarMappable(Normalize(-reach, reach), 'RdBu_r'), cax=place, ticks=[-reach, 0, reach])
    bar.ax.tick_params(color=FAINT, labelcolor=FAINT)
    bar.outline.set_visible(False)
