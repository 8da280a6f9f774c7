"""A run that somebody wants to use: its folder opened, its network ready, and nothing written."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from train import catalogue, sources
from train.checkpoints import read, steps_in
from train.config import Checkpoint, Config, Mesh, from_json
from train.data.stream import place, val_batches
from train.errors import UserError, in_a_line
from train.facts import FILE, Facts
from train.folder import read_json
from train.model import build
from train.objectives.objective import Batch, Variables
from train.places import place as place_of
from train.scale import Scale
from train.sharding import evaluation_mesh, given_sharding, traced_for
from train.sources.source import Record, Source, Split
from vit_flax.blocks.backbone import Backbone


@dataclass(frozen=True)
class Run:
    """A run as one of its checkpoints left it.

    Attributes:
      folder: absolute.
      config: what the run is.
      facts: of its data.
      mesh: over all devices here, which share the rows of a batch.
      model: the network.
      scale: bytes of images to what the network takes.
      variables: of its objective, those that are evaluated, split over the mesh as in training.
      step: updates that were made until then.
    """

    folder: Path
    config: Config
    facts: Facts
    mesh: jax.sharding.Mesh
    model: Backbone
    scale: Scale
    variables: Variables
    step: int

    @property
    def network(self) -> Variables:
        """The variables of the network alone."""
        return self.config.objective.network(self.variables)

    def name(self, number: int) -> str:
        """Of a class; a network may have more of them than the data."""
        return self.facts.classes[number] if number < len(self.facts.classes) else f'(class {number})'


def open_run(folder: str, checkpoint: Checkpoint) -> Run:
    """Reads what a run has stored, whatever devices it ran on.

    Raises:
      UserError: there is no such folder, it holds no run, or the checkpoint is missing, damaged or of another model.
    """
    path, config, facts = open_config(folder)
    model = build(config.model, facts.shape, len(facts.classes))
    scale = Scale(facts.mean, facts.std)
    mesh, rules = evaluation_mesh(config.mesh)
    variables, step = _variables(path, checkpoint, config, facts, model, mesh, rules)
    return Run(path, config, facts, mesh, model, scale, variables, step)


def open_config(folder: str) -> tuple[Path, Config, Facts]:
    """The folder of a run, its config, and the facts of its data.

    Raises:
      UserError: there is no such folder, or it holds no run.
    """
    path = place_of(folder, 'RUN').absolute()
    if not path.is_dir():
        raise UserError(f'{folder} is no folder: name that of a run, such as runs/digits')
    written = path / 'config.json'
    if not written.exists():
        below = sorted(found.parent.name for found in path.glob('*/config.json'))
        hint = f'; there are runs in it: {", ".join(below[:5])}' if below else ''
        raise UserError(f'{folder} is no run of this trainer, it has no config.json{hint}')
    try:
        values = read_json(written)
    except ValueError as error:
        raise UserError(f'{written} cannot be read: {error}') from error
    try:
        config = _config(values)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    return path, config, Facts.read(path) if (path / FILE).exists() else Facts.of(config)


class _InMemory(Source):
    """In the place of arrays that somebody else has in memory."""

    def check(self) -> None:
        sources.find('arrays')  # says so


def _config(values: dict[str, Any]) -> Config:
    data = values.get('data')
    if not isinstance(data, dict) or data.get('name') != 'arrays':
        return from_json(values)
    return dataclasses.replace(from_json({**values, 'data': {'name': 'synthetic'}}), data=_InMemory())


def _variables(
    folder: Path,
    checkpoint: Checkpoint,
    config: Config,
    facts: Facts,
    model: Backbone,
    mesh: jax.sharding.Mesh,
    rules: Mesh,
) -> tuple[Variables, int]:
    """What is evaluated, and after which step."""
    shapes = dict(variable_shapes(config, model, facts.shape))
    params = 'ema' if config.optim.ema > 0 else 'params'
    wanted = {params: shapes.pop('params'), **({'collections': shapes} if shapes else {})}
    shardings = {name: given_sharding(tree, mesh, rules) for name, tree in wanted.items()}
    wanted = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), wanted, shardings)
    try:
        stored, meta = read(folder / 'checkpoints' / checkpoint, wanted)
    except UserError as error:
        other = 'last' if checkpoint == 'best' else 'best'
        hint = f'; --checkpoint {other} takes the other' if steps_in(folder / 'checkpoints' / other) else ''
        raise UserError(f'{error}{hint}') from error
    return {'params': stored[params], **stored.get('collections', {})}, meta['step']


def variable_shapes(config: Config, model: Backbone, shape: tuple[int, ...]) -> Variables:
    """Shapes and dtypes of a model's variables, for images of this shape."""
    key = jax.random.key(0)

    def init():
        image = jnp.zeros((1, *shape))
        module = config.objective.module(model, None)
        return config.objective.init(module, key, {'image': image, 'label': jnp.zeros(1, int)})

    try:
        return jax.eval_shape(init)
    except Exception as error:  # a model meets sizes that it cannot be built with in its own ways
        raise UserError(f'model {config.model.name!r} cannot be built from config.json: {in_a_line(error)}') from error


def data_of(run: Run, split: Split, path: str = '') -> Sequence[Record]:
    """The records of one split of a run's data.

    Args:
      run: whose they are.
      split: train or val.
      path: where they are now, if not where they were.

    Raises:
      UserError: they are not there, or are other data.
    """
    source = run.config.data
    if path:
        if not any(field.name == 'path' for field in dataclasses.fields(source)):
            raise UserError(f'data.path={path!r}: data of the kind {catalogue.name_of(source)!r} come without a path')
        elsewhere: dict[str, Any] = {'path': path}
        source = dataclasses.replace(source, **elsewhere)
    source.check()
    run.facts.check_same(Facts.of(dataclasses.replace(run.config, data=source)), 'data.path' if path else 'data')
    return source.records(split)


def rows_of(
    run: Run, records: Sequence[Record], function: Callable[[Variables, Batch], Any], batch_size: int
) -> Iterator[tuple[Any, Any]]:
    """A function of all records in order, in batches over all devices.

    Args:
      run: gives variables and scale.
      records: as they are stored.
      function: of the run's variables and a batch as it is stored; a tree of arrays `[b ...]`.
      batch_size: rows of a batch at least; a multiple of the devices is taken.

    Yields:
      A batch as evaluated and the function of it, both as numpy arrays without the rows that fill up the last batch.
    """
    rows = -(-batch_size // run.mesh.size) * run.mesh.size
    whole = NamedSharding(run.mesh, PartitionSpec())
    compiled = jax.jit(traced_for(run.mesh, function, rows), out_shardings=whole)
    for batch in val_batches(records, run.config.augment, batch_size=rows, loader=run.config.loader):
        batch.pop('skipped', None)  # images that stand in for unreadable ones do not count
        found = jax.device_get(compiled(run.variables, place(batch, run.mesh, rows)))
        counts = batch['weight'] > 0
        yield jax.tree.map(lambda x, counts=counts: x[counts], (batch, found))
