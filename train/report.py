"""The end of a run: plots, `summary.json`, and where everything lies."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.checkpoints import Meta
from train.config import Config
from train.folder import SUMMARY
from train.log import Terminal, duration, read_rows
from train.setup import Setup
from train.sources.source import Record


@dataclass(frozen=True)
class Result:
    """What the loop hands over.

    Attributes:
      folder: of the run.
      meta: of the last checkpoint.
      best: of the best checkpoint; None if somebody has removed it.
      seconds: of all sessions together.
      unreadable: images to train on, and held-out ones, that could not be read.
    """

    folder: Path
    meta: Meta
    best: Meta | None
    seconds: float
    unreadable: tuple[int, int] = (0, 0)


def report(
    config: Config,
    setup: Setup,
    variables: Mapping[str, Any],
    records: Sequence[Record],
    result: Result,
    terminal: Terminal,
) -> None:
    """Draws, writes the summary, and says so. `summary.json` comes last: it marks a run as finished."""
    drawn = []
    if config.plots:
        from train.plots.draw import draw  # matplotlib is slow to import

        terminal.say('drawing ...')
        rows = read_rows(result.folder / 'metrics.jsonl')
        folder, augment, classes = result.folder / 'plots', config.augment, config.data.classes
        drawn = draw(folder, rows, records, config.objective, setup.model, setup.scale, variables, augment, classes)

    summary = {
        'step': result.meta['step'],
        **result.meta['val'],
        'seconds': round(result.seconds, 1),
        'parameters': setup.parameters,
    }
    if any(result.unreadable):
        summary['unreadable'] = dict(zip(('train', 'val'), result.unreadable, strict=True))
    kept = f'last (step {result.meta["step"]})'
    if result.best is not None:
        summary['best'] = {'step': result.best['step'], **result.best['val']}
        kept += f' and best (step {result.best["step"]})'
    unfinished = result.folder / 'summary.tmp'
    unfinished.write_text(json.dumps(summary, indent=2) + '\n')
    os.replace(unfinished, result.folder / SUMMARY)

    val = result.meta['val']
    held_out = len(records) - result.unreadable[1]
    lines = [('', '')]
    if 'val/accuracy' in val:
        right = round(val['val/accuracy'] * held_out)
        lines.append(('accuracy', f'{100 * val["val/accuracy"]:.2f} % of the held-out images ({right} of {held_out})'))
    for name, title in (('knn', 'k-NN'), ('linear', 'linear probe')):
        if f'val/{name}_accuracy' in val:
            lines.append((title, f'{100 * val[f"val/{name}_accuracy"]:.2f} % of the held-out images, by its features'))
    lines += [
        ('held-out loss', f'{val["val/loss"]:.4f}'),
        ('time', duration(result.seconds)),
        ('parameters', f'{setup.parameters:,}'),
        *([('unreadable', f'{sum(result.unreadable)} images were skipped')] if any(result.unreadable) else []),
        ('', ''),
        ('everything is in', str(result.folder)),
        ('  metrics.jsonl', 'every logged metric'),
        ('  tensorboard/', f'tensorboard --logdir {result.folder / "tensorboard"}'),
        ('  checkpoints/', kept),
    ]
    if drawn:
        lines.append(('  plots/', ', '.join(path.name for path in drawn)))
    lines.append(('  summary.json', 'the metrics above'))
    now = f'python -m train predict {config.out} IMAGE...   (or eval, features, plots)'
    if not config.objective.classifies:
        now = f'python -m train RECIPE --init {config.out}   to fine-tune it (or eval, features, plots)'
    elif len(config.augment.shape(config.data)) != 3:
        now = f'python -m train eval {config.out}   (or features, plots)'
    lines += [('', ''), ('and now', now)]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        terminal.say(f'{name:<{width}}  {text}'.rstrip())
