"""Loss, accuracy and learning rate over the steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.log import Row
from train.plots.style import BLUE, GREEN, ORANGE, figure, grid


def curves(path: Path, rows: Sequence[Row]) -> None:
    """One panel each for the loss, the other metric that both splits have, and the learning rate."""
    with figure(path, 10.5, 3.5, 'Training', 'dots: single augmented batches') as drawn:
        left, middle, right = grid(drawn, 1, 3, top=1.05, left=0.55, bottom=0.55, right=0.25, gap=0.65)[0]
        for axes, name, title in ((left, 'loss', 'Loss'), (middle, 'accuracy', 'Accuracy')):
            steps, values = series(rows, f'train/{name}')
            axes.plot(steps, values, '.', color=BLUE, alpha=0.25, markersize=3, markeredgewidth=0)
            axes.plot(steps, running_mean(values), color=BLUE, linewidth=1.6, label='training')
            held_out = series(rows, f'val/{name}')
            axes.plot(*held_out, '.-', color=ORANGE, linewidth=1.6, markersize=5, label='held out')
            if len(held_out[0]):  # a young run has not looked yet
                axes.annotate(
                    f'{held_out[1][-1]:.1%}' if name == 'accuracy' else f'{held_out[1][-1]:.3f}',
                    (held_out[0][-1], held_out[1][-1]),
                    (0, -13),
                    textcoords='offset points', color=ORANGE, weight='bold', ha='right',
                )  # fmt: skip
            axes.set(title=title, xlabel='step', xlim=(0, None))
        left.set_ylim(0, None)
        middle.set_ylim(None, 1.005)
        middle.yaxis.set_major_formatter(lambda value, _: f'{value:.0%}')
        drawn.legend(*left.get_legend_handles_labels(), loc='upper right', ncols=2)
        right.plot(*series(rows, 'learning_rate'), color=GREEN, linewidth=1.6)
        right.set(title='Learning rate', xlabel='step', xlim=(0, None), ylim=(0, None))
        right.yaxis.set_major_formatter(lambda value, _: f'{value:.3g}')


def series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have the name."""
    points = [(row['step'], row[name]) for row in rows if name in row]
    return np.array([step for step, _ in points]), np.array([value for _, value in points])


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean with up to five neighbours on both sides, fewer in a short run and at the ends."""
    reach = min(5, len(values) // 20)
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])
