"""`python -m train features RUN`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from jax import Array

from train.commands.command import Command, Data, RunFolder, Which, console
from train.embeddings import embedder
from train.errors import UserError
from train.objectives.objective import Batch, Variables
from train.places import place
from train.run import data_of, open_run, rows_of
from train.sources.source import Some, Split
from train.values import check_values


@dataclass(frozen=True, kw_only=True)
class Features(Command):
    """Extracts features, the embeddings in front of the head, for other programs.

    An .npz file with `features`, `labels`, `classes` (names of the labels) and `split` (train or val, of each row)."""

    run: RunFolder
    layer: Annotated[
        str,
        tyro.conf.arg(
            metavar='PATH',
            help='A submodule or tap, such as transformer/block_2, for its output. By default what the head takes.',
        ),
    ] = ''
    split: Annotated[
        Literal['train', 'val', 'both'], tyro.conf.arg(help='Which part of the data: as evaluated, in order.')
    ] = 'val'
    out: Annotated[str, tyro.conf.arg(metavar='FILE', help='Where to write. By default RUN/features.npz.')] = ''
    limit: Annotated[int, tyro.conf.arg(help='Most images of each split; 0: all.')] = 0
    checkpoint: Which = 'best'
    data: Data = field(default_factory=Data)

    def execute(self) -> int:
        check_values(self)
        if self.limit < 0:
            raise UserError(f'limit={self.limit} must be at least 0')
        given = place(self.out, '--out') if self.out else None
        if given and given.is_dir():
            raise UserError(f'--out {self.out} is a folder: name a file')
        run = open_run(self.run, self.checkpoint)
        embed = embedder(run.model, run.facts.shape, self.layer)

        def look(variables: Variables, batch: Batch) -> Array:
            return embed(run.config.objective.network(variables), run.scale(batch)['image'])

        splits: tuple[Split, ...] = ('train', 'val') if self.split == 'both' else (self.split,)
        features, labels, parts = [], [], []
        for split in splits:
            records = data_of(run, split, self.data.path)
            records = Some(records, range(self.limit)) if 0 < self.limit < len(records) else records
            for batch, found in rows_of(run, records, look, run.config.batch_size):
                features.append(found)
                labels.append(batch['label'])
                parts.append([split] * len(found))
        arrays = {
            'features': np.concatenate(features),
            'labels': np.concatenate(labels),
            'classes': np.array(run.facts.classes),
            'split': np.concatenate(parts),
        }
        out = given or run.folder / 'features.npz'
        _write(out, arrays)
        shape = 'x'.join(map(str, arrays['features'].shape))
        console().print(f'{shape} features of {len(arrays["labels"]):,} images are in {out}', markup=False)
        return 0


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """All of it or nothing."""
    unfinished = path.parent / f'.{path.name}.tmp'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open('wb') as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f'--out {path} cannot be written: {error.strerror}') from error
