"""`python -m train features RUN`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

from train.commands.command import Command, Data, RunFolder, Which, console
from train.errors import UserError
from train.heads import head_modules
from train.objectives.objective import Batch, Variables
from train.run import Run, data_of, open_run, rows_of
from train.sources.source import Record, Split
from vit_flax.wrappers.extractor import Extractor


@dataclass(frozen=True, kw_only=True)
class Features(Command):
    """What the network makes of images before it classifies them, for other programs.

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
    limit: Annotated[int, tyro.conf.arg(help='Take so many images of each split at most; 0 takes all.')] = 0
    checkpoint: Which = 'best'
    data: Data = field(default_factory=Data)

    def execute(self) -> int:
        if self.limit < 0:
            raise UserError(f'limit={self.limit} must be at least 0')
        if self.out and Path(self.out).expanduser().is_dir():
            raise UserError(f'--out {self.out} is a folder: name a file')
        run = open_run(self.run, self.checkpoint)
        look = extract(run, self.layer)
        splits: tuple[Split, ...] = ('train', 'val') if self.split == 'both' else (self.split,)
        features, labels, parts = [], [], []
        for split in splits:
            records = data_of(run, split, self.data.path)
            records = _First(records, self.limit) if 0 < self.limit < len(records) else records
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
        out = Path(self.out).expanduser() if self.out else run.folder / 'features.npz'
        _write(out, arrays)
        shape = 'x'.join(map(str, arrays['features'].shape))
        console().print(f'{shape} features of {len(arrays["labels"]):,} images are in {out}', markup=False)
        return 0


@dataclass(frozen=True)
class _First(Sequence[Record]):
    """The first records of a split."""

    records: Sequence[Record]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index):
        return self.records[range(self.length)[index]]


def extract(run: Run, layer: str) -> Callable[[Variables, Batch], Array]:
    """A function that gives the embeddings of a batch, float32 `[b ...]`.

    Args:
      run: with the network.
      layer: whose output is taken; '' takes the input of the head, joined if there are several, and averaged over
        all axes but the first and the last.

    Raises:
      UserError: the network has no such place, or what is there has no axis of images.
    """
    if layer:
        at: Any = [Extractor(run.model, layer, return_embeddings_only=True)]
    else:
        modules = head_modules(run.config, run.model, run.facts.shape)
        at = [Extractor(run.model, name, layer_save_input=True, return_embeddings_only=True) for name in modules]
        if not at:
            raise UserError(f'model {run.config.model.name!r} has no head: choose a --layer')

    def take(variables: Variables, images: Array) -> list[Array]:
        found = [extractor.apply(variables, images) for extractor in at]
        return found if layer else [inputs[0] for inputs in found]

    def shape(rows: int) -> list[jax.ShapeDtypeStruct]:
        images = jax.ShapeDtypeStruct((rows, *run.facts.shape), jnp.float32)
        return jax.eval_shape(take, run.variables, images)

    try:
        axes = list(map(_image_axis, shape(2), shape(3)))
    except (ValueError, AttributeError, TypeError) as error:
        reason = str(error).removeprefix('layer_name=')
        raise UserError(f'--layer {reason}' if layer else f'the head has no plain input: {reason}') from error

    def look(variables: Variables, batch: Batch) -> Array:
        arrays = [
            jnp.moveaxis(array, axis, 0).astype(jnp.float32)
            for array, axis in zip(take(variables, batch['image']), axes, strict=True)
        ]
        if layer:
            return arrays[0]
        return jnp.concatenate([array.reshape(len(array), -1, array.shape[-1]).mean(1) for array in arrays], axis=-1)

    return look


def _image_axis(two: jax.ShapeDtypeStruct, three: jax.ShapeDtypeStruct) -> int:
    """The axis that runs over the images, seen from what two and what three of them give."""
    axes = [i for i, sizes in enumerate(zip(two.shape, three.shape, strict=True)) if sizes == (2, 3)]
    if len(axes) != 1 or two.ndim < 2:
        raise ValueError(f'what is there has shape {two.shape} for two images: no axis of images beside the values')
    return axes[0]


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
