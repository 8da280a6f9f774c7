"""What a run would compute and need, and one step of it; nothing is written."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from train.commands.command import console
from train.config import Config, Loader
from train.data.stream import host_rows, place, train_batches
from train.errors import UserError
from train.flops import model_flops
from train.init import begin, inherit
from train.log import duration
from train.optim import assign, paths
from train.plan.standin import described
from train.plan.step import bytes_on_a_device, parts
from train.setup import Setup, set_up
from train.sharding import abstract, traced_for
from train.sources.source import InMemory, Record
from vit_flax.cli.text import fold
from vit_flax.flops import flops


def dry_run(config: Config) -> None:
    """Prints parameters, memory and FLOPs, then makes one step.

    Raises:
      UserError: something in the config cannot be.
    """
    config, _ = described(config)
    setup = set_up(config)
    inherited = inherit(config, setup) if config.init else None
    screen = console() if jax.process_index() == 0 else Console(quiet=True)
    screen.print(_parameters(config, setup))
    for line in setup.fallbacks:
        screen.print(line, markup=False)
    screen.print(_totals(setup))

    records, source = _records(config)
    rows = host_rows(setup.mesh, config.batch_size)
    loader = Loader(threads=0)
    stream = train_batches(
        records, config.augment, seed=config.seed, batch_size=config.batch_size, steps=1, rows=rows, loader=loader
    )
    batch = next(stream)
    batch.pop('skipped', None)
    shapes = ', '.join(f'{name} {_shape((config.batch_size, *x.shape[1:]))} {x.dtype}' for name, x in batch.items())
    screen.print(f'\na batch: {shapes}; {source}', markup=False)

    placed = {**place(batch, setup.mesh, config.batch_size), **setup.given}
    began = time.monotonic()
    compiled = setup.train_step.lower(setup.state, abstract(placed)).compile()
    screen.print(f'compiled in {duration(time.monotonic() - began)}')
    screen.print(_memory(compiled))
    for line in _flops(config, setup):
        screen.print(line, markup=False)

    state = setup.initial()
    if inherited is not None:
        state = begin(config, setup, state, inherited)
        for line in inherited.lines:
            screen.print(line, markup=False)
    jax.block_until_ready((state, placed))
    began = time.monotonic()
    _, numbers = compiled(state, placed)
    loss = float(numbers['loss'])
    seconds = time.monotonic() - began
    if not math.isfinite(loss):
        raise UserError(f'one step gives a loss of {loss}')
    screen.print(f'one step: loss {loss:.4f}, {seconds:.3g} s, {config.batch_size / seconds:,.0f} images/s')
    screen.print('nothing was written; the same command without --dry-run trains')


@dataclass(frozen=True)
class _Kind:
    """What the table says of a parameter."""

    shape: tuple[int, ...]
    dtype: str
    group: str
    split: str


def _parameters(config: Config, setup: Setup) -> Table:
    params = setup.state.params
    groups = assign(config.optim.groups, params)
    kinds = {
        path: _Kind(leaf.shape, str(leaf.dtype), groups[path], _split(leaf.sharding))
        for path, leaf in zip(paths(params), jax.tree.leaves(params), strict=True)
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column('parameter', overflow='fold')
    for heading in ('shape', 'numbers', 'dtype', 'group'):
        table.add_column(heading, no_wrap=True, justify='right' if heading == 'numbers' else 'left')
    divided = any(kind.split for kind in kinds.values())
    if divided:
        table.add_column('split over', no_wrap=True)
    for entry in fold(kinds):
        kind, count = entry.value, entry.count * math.prod(entry.value.shape)
        row = [entry.name, _shape(kind.shape), f'{count:,}', kind.dtype, kind.group]
        table.add_row(*row, *([kind.split] if divided else []))
    return table


def _split(sharding: Any) -> str:
    """Axes of the mesh along the axes of a parameter: `- tensor`; '' where it is whole on every device."""
    axes = [axis if axis and sharding.mesh.shape[axis] > 1 else '-' for axis in sharding.spec]
    return ' '.join(axes) if set(axes) - {'-'} else ''


def _totals(setup: Setup) -> Table:
    table = _plain('', 'numbers', 'bytes', 'on each device')
    state = setup.state
    for name, tree in {**parts(state), 'together': state}.items():
        leaves = jax.tree.leaves(tree)
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        table.add_row(name, f'{sum(leaf.size for leaf in leaves):,}', _bytes(whole), _bytes(bytes_on_a_device(tree)))
    return table


def _records(config: Config) -> tuple[Sequence[Record], str]:
    """The data to train on or, where they are not, noise of their shape; and which it is."""
    source = config.data
    try:
        return source.records('train'), 'real data'
    except UserError as error:
        draw = np.random.default_rng(config.seed)
        images = draw.integers(0, 256, (64, *config.augment.shape(source)), np.uint8)
        labels = draw.integers(0, len(source.classes), 64)
        return InMemory(images, labels), f'NOISE, since the data are not there: {error}'


def _memory(compiled: Any) -> Table | str:
    """What the compiler planned for one device."""
    found = compiled.memory_analysis()
    if found is None:
        return 'memory: this backend does not tell'
    table = _plain('', 'bytes on each device')
    for name, size in (
        ('state and batch', found.argument_size_in_bytes),
        ('activations and scratch', found.temp_size_in_bytes),
        ('results beside the state', found.output_size_in_bytes - found.alias_size_in_bytes),
        ('program', found.generated_code_size_in_bytes),
    ):
        table.add_row(name, _bytes(size))
    return table


def _flops(config: Config, setup: Setup) -> list[str]:
    """Of one step and of the forward pass, for all devices together; see `vit_flax.flops`."""

    images = jax.eval_shape(setup.scale.leaf, setup.batch['image'])
    variables = config.objective.network(setup.state.variables)
    forward = flops(traced_for(setup.mesh, setup.model.apply, config.batch_size), variables, images)
    step, each = model_flops(config), config.batch_size
    return [
        f'FLOPs of the forward pass: {_si(forward)}, {_si(forward / each)} for each image',
        f'FLOPs of one step: {_si(step)}, {_si(step / each)} for each image',
        '(matrix products and convolutions of the traced program, without what remat computes twice; a multiplication '
        'and an addition are two)',
    ]


def _plain(*headings: str) -> Table:
    table = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = 'right'
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return f'[{" ".join(map(str, shape))}]'


def _bytes(size: float) -> str:
    for unit in ('B', 'KiB', 'MiB', 'GiB'):
        if abs(size) < 1024:
            return f'{size:.4g} {unit}'
        size /= 1024
    return f'{size:.4g} TiB'


def _si(count: float) -> str:
    for unit in ('', ' k', ' M', ' G', ' T'):
        if count < 1000:
            return f'{count:.4g}{unit}'
        count /= 1000
    return f'{count:.4g} P'
