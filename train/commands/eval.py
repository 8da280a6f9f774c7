"""`python -m train eval RUN`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich import box
from rich.table import Table

from train.commands.command import Command, Data, RunFolder, Which, console
from train.embeddings import embedder
from train.errors import UserError
from train.objectives.objective import Batch, Variables
from train.places import place
from train.probes import Features, chosen, probe
from train.run import Run, data_of, open_run, rows_of
from train.sources.source import Record, Split
from train.step import held_out_metrics
from train.values import check_values

SPLITS: tuple[Split, ...] = ('train', 'val')

# Rows of the tables; the file of --json has them all.
SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Eval(Command):
    """Evaluates a run on the validation set: loss, accuracy, accuracy per class and the confusion matrix.

    Of a run that learned without labels, what k-NN and a linear probe make of its features."""

    run: RunFolder
    checkpoint: Which = 'best'
    data: Data = field(default_factory=Data)
    split: Annotated[Split, tyro.conf.arg(help='The held-out part of the data, or that which was trained on.')] = 'val'
    batch_size: Annotated[int, tyro.conf.arg(help='Images at a time. By default as in training.')] = 0
    json: Annotated[str, tyro.conf.arg(metavar='FILE', help='Write every number into this file, too.')] = ''

    def execute(self) -> int:
        check_values(self)
        if self.batch_size < 0:
            raise UserError(f'batch_size={self.batch_size} must be at least 1')
        out = place(self.json, '--json') if self.json else None
        run = open_run(self.run, self.checkpoint)
        numbers = evaluate(run, self.split, self.data.path, self.batch_size or run.config.batch_size)
        numbers = {'run': str(run.folder), 'checkpoint': self.checkpoint, 'step': run.step, **numbers}
        _show(numbers)
        if out:
            try:
                out.write_text(json.dumps(numbers, indent=2) + '\n')
            except OSError as error:
                raise UserError(f'--json {self.json} cannot be written: {error.strerror}') from error
        return 0


def evaluate(run: Run, split: Split, path: str, batch_size: int) -> dict[str, Any]:
    """The objective's metrics over one split and, of a classifier, accuracies and confusions.

    Raises:
      UserError: the data are not there, or others.
    """
    objective, model = run.config.objective, run.model
    classifies, classes = objective.classifies, run.facts.classes

    def look(variables: Variables, batch: Batch) -> tuple[Any, Any]:
        metrics = held_out_metrics(objective, model, run.scale, variables, batch, run.step / run.config.steps)
        if not classifies:
            return metrics, None
        # The compiler sees that the network is the same.
        logits = objective.logits(model, variables, run.scale(batch)['image'])
        return metrics, jax.lax.top_k(logits, min(5, len(classes)))[1]

    records = data_of(run, split, path)
    if not len(records):
        raise UserError(f'data: the split {split!r} is empty')
    metrics: list[Any] = []
    first, labels = [], []
    for batch, (values, best) in rows_of(run, records, look, batch_size):
        metrics.append(values)
        labels.append(batch['label'])
        if classifies:
            first.append(best)
    means = jax.tree.map(lambda *parts: float(np.concatenate(parts).mean(dtype=np.float64)), *metrics)
    numbers = {'split': split, 'images': sum(map(len, labels)), **means}
    if classifies:
        return {**numbers, **_classified(np.concatenate(labels), np.concatenate(first), run)}
    if objective.probed and split == 'val':
        known, asked = (_features(run, data_of(run, part, path), batch_size) for part in SPLITS)
        return {**numbers, **probe(known, asked, len(classes))}
    return numbers


def _features(run: Run, records: Sequence[Record], batch_size: int) -> Features:
    """As many of a split as were probed in training."""
    objective, embed = run.config.objective, embedder(run.model, run.facts.shape)

    def look(variables: Variables, batch: Batch) -> Any:
        return embed(objective.network(variables), run.scale(batch)['image'])

    rows = rows_of(run, chosen(records, objective.probed), look, batch_size)
    parts = [(found, batch['label']) for batch, found in rows]
    return Features(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _classified(labels: np.ndarray, first: np.ndarray, run: Run) -> dict[str, Any]:
    """Args: labels `[n]`; first: the most probable classes `[n 5]`, best first."""
    said, classes = first[:, 0], run.facts.classes
    hits = {'top_1': float((said == labels).mean())}
    if len(classes) > 5:
        hits['top_5'] = float((first == labels[:, None]).any(1).mean())
    of_class = {}
    for number, name in enumerate(classes):
        mine = said[labels == number]
        of_class[name] = {'images': len(mine), 'right': int((mine == number).sum())}
    wrong = Counter(zip(labels[said != labels].tolist(), said[said != labels].tolist(), strict=True))
    confusions = [{'is': run.name(a), 'taken_for': run.name(b), 'times': n} for (a, b), n in wrong.most_common()]
    return {**hits, 'classes': of_class, 'confusions': confusions}


def _show(numbers: dict[str, Any]) -> None:
    out = console()
    held_out = 'held-out' if numbers['split'] == 'val' else 'training'
    out.print(
        f'{numbers["run"]}: {numbers["checkpoint"]} checkpoint (step {numbers["step"]}), '
        f'{numbers["images"]:,} {held_out} images',
        markup=False,
    )
    lines = {name: f'{value:.4f}' for name, value in numbers.items() if isinstance(value, float)}
    for name in ('top_1', 'top_5', 'knn_accuracy', 'linear_accuracy'):
        if name in numbers:
            right = round(numbers[name] * numbers['images'])
            lines[name] = f'{100 * numbers[name]:.2f} % ({right:,} of {numbers["images"]:,})'
    lines.pop('accuracy', None)  # of a classifier the same as top-1
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, text in lines.items():
        table.add_row(name.replace('_', '-'), text)
    out.print(table)
    if 'classes' not in numbers:
        return
    by_accuracy = sorted(numbers['classes'].items(), key=lambda item: item[1]['right'] / max(item[1]['images'], 1))
    few = len(by_accuracy) <= 2 * SHOWN
    chosen = list(numbers['classes'].items()) if few else by_accuracy[:SHOWN]
    table = Table('class', 'images', 'right', 'accuracy', box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = 'right'
    for name, found in chosen:
        part = f'{100 * found["right"] / found["images"]:.2f} %' if found['images'] else 'no images'
        table.add_row(name, f'{found["images"]:,}', f'{found["right"]:,}', part)
    out.print(table)
    if not few:
        out.print(f'the {SHOWN} of {len(by_accuracy)} classes with the lowest accuracy')
    if numbers['confusions']:
        table = Table('is', 'taken for', 'times', box=box.SIMPLE_HEAD, pad_edge=False)
        table.columns[2].justify = 'right'
        for confusion in numbers['confusions'][:SHOWN]:
            table.add_row(confusion['is'], confusion['taken_for'], f'{confusion["times"]:,}')
        out.print(table)
