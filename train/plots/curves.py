"""Loss, accuracy and learning rate over the steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from train.log import Row
from train.plots.style import BLUE, GREEN, ORANGE, figure, grid


def curves(path: Path, rows: Sequence[Row]) -> None:
    """One panel each for the loss, accuracies or what probes find in the features, and the learning rate."""
    probed = any('val/knn_accuracy' in row for row in rows)
    with figure(path, 10.5, 3.5, 'Training', 'dots: single augmented batches') as drawn:
        left, middle, right = grid(drawn, 1, 3, top=1.05, left=0.55, bottom=0.55, right=0.25, gap=0.65)[0]
        _both(left, rows, 'loss', '{:.3f}')
        left.set(title='Loss', xlabel='step', xlim=(0, None))
        if (series(rows, 'train/loss')[1] >= 0).all():
            left.set_ylim(0, None)
        if probed:
            for name, title, colour, below in (
                ('val/linear_accuracy', 'linear probe', GREEN, 5),
                ('val/knn_accuracy', 'k-NN', ORANGE, -13),
            ):
                _held_out(middle, rows, name, '{:.1%}', colour, title, below)
            middle.legend(loc='lower right')
            middle.margins(y=0.1)
            middle.set(title='Accuracy of probes on the features', xlabel='step', xlim=(0, None))
        else:
            _both(middle, rows, 'accuracy', '{:.1%}')
            middle.set(title='Accuracy', xlabel='step', xlim=(0, None), ylim=(None, 1.005))
        middle.yaxis.set_major_formatter(lambda value, _: f'{round(100 * value, 6):g}%')
        drawn.legend(*left.get_legend_handles_labels(), loc='upper right', ncols=2)
        right.plot(*series(rows, 'learning_rate'), color=GREEN, linewidth=1.6)
        right.set(title='Learning rate', xlabel='step', xlim=(0, None), ylim=(0, None))
        right.yaxis.set_major_formatter(lambda value, _: f'{value:.3g}')


def _both(axes: Axes, rows: Sequence[Row], name: str, number: str) -> None:
    """A metric of the training batches and of the held-out data."""
    steps, values = series(rows, f'train/{name}')
    axes.plot(steps, values, '.', color=BLUE, alpha=0.25, markersize=3, markeredgewidth=0)
    axes.plot(steps, running_mean(values), color=BLUE, linewidth=1.6, label='training')
    held_out = series(rows, f'val/{name}')[1]
    above = len(held_out) and len(values) and held_out[-1] > values[-5:].mean()
    _held_out(axes, rows, f'val/{name}', number, ORANGE, 'held out', 5 if above else -13)


def _held_out(axes: Axes, rows: Sequence[Row], name: str, number: str, colour: str, label: str, below: float) -> None:
    """A metric of each evaluation, with its newest value."""
    steps, values = series(rows, name)
    axes.plot(steps, values, '.-', color=colour, linewidth=1.6, markersize=5, label=label)
    if len(steps):  # a young run has not looked yet
        place = steps[-1], values[-1]
        offset = (0, below)
        axes.annotate(
            number.format(values[-1]),
            place,
            offset,
            textcoords='offset points',
            color=colour,
            weight='bold',
            ha='right',
        )


def series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have the name."""
    points = [(row['step'], row[name]) for row in rows if name in row]
    return np.array([step for step, _ in points]), np.array([value for _, value in points])


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean with up to five neighbours on both sides, fewer in a short run and at the ends."""
    reach = min(5, len(values) // 20)
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])
