"""Fine-tuning: a run that begins with the parameters of another, or of a file of weights."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from train.config import Config
from train.errors import UserError
from train.heads import head_parameters
from train.model import SIZES, build
from train.origin import is_run, published
from train.places import place
from train.run import open_run
from train.setup import Setup
from train.state import TrainState
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.position_tables import OF_POSITIONS, PositionTable, position_tables
from vit_flax.blocks.positions import Resampling
from vit_flax.cli.text import fold
from vit_flax.pretrained import Checkpoint
from vit_flax.weights.files import FileError, read_arrays
from vit_flax.weights.fit import fold_channels, resize_kernel
from vit_flax.weights.formats.names import without_prefix
from vit_flax.weights.layers import stacked_path
from vit_flax.weights.sources import SOURCES

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Inherited:
    """What a run begins with instead of drawing it.

    Attributes:
      arrays: paths of the network such as `params/mlp_head/bias` -> values, in the shapes of the new one.
      lines: what was taken over and what was not, for people.
    """

    arrays: Mapping[str, Any]
    lines: list[str]


@dataclass
class _Fit:
    """How arrays of one network fit another."""

    taken: dict[str, Any] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    missing: dict[str, Shape] = field(default_factory=dict)
    misshapen: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    # position tables of images of unknown size
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Origin:
    """What a run begins with, as it was stored.

    Attributes:
      arrays: by path.
      name: for people.
      tables: its position tables; None if its images' size is unknown.
      has_head: whether the head has learned anything.
      resampling: of position tables.
      lines: for people.
    """

    arrays: Mapping[str, Any]
    name: str
    tables: Mapping[str, PositionTable] | None
    has_head: bool = True
    resampling: Resampling = OF_POSITIONS
    lines: tuple[str, ...] = ()


def inherit(config: Config, setup: Setup) -> Inherited:
    """Reads `config.init` and fits it to the network of `setup`.

    A head of another shape stays new, learned positions of another grid are resized, and the kernel that reads the
    image is fitted to other patches and channels.

    Raises:
      UserError: it cannot be read, or anything else is missing, unexpected or of another shape; all of it is listed.
    """
    origin = _read(config, setup)
    old, tables = origin.arrays, origin.tables
    shape = config.augment.shape(config.data)
    new_tables = _tables(setup.model, shape)
    heads = {f'params/{path}' for path in head_parameters(setup.model, shape)}
    network = config.objective.network(setup.state.variables)
    wanted = {path: leaf.shape for path, leaf in flatten_dict(network, sep='/').items()}
    old = _in_layout(old, wanted)
    if not origin.has_head:
        old = {path: array for path, array in old.items() if path not in heads}
    kernel = f'params/{setup.model.input_kernel}' if setup.model.input_kernel else None
    fit = _Fit()
    for path, here in wanted.items():
        array, new = old.get(path), new_tables.get(_of_layers(path))
        # of a file whose images are not known, a table that has as many rows is taken as it is
        before = new if tables is None else tables.get(_of_layers(path))
        if array is not None and new and before and before != new and _holds(array, before):
            fit.taken[path] = before.move(array, new, origin.resampling)
            fit.resized[path] = f'{_words(before)} to {_words(new)} {"offsets" if new.offsets else "places"}'
        elif array is not None and array.shape == here:
            fit.taken[path] = array
        elif array is not None and path == kernel and array.ndim == 4 and array.shape[3] == here[3]:
            fit.taken[path] = fold_channels(resize_kernel(array, here[:2]), here[2])
            fit.resized[path] = f'{"x".join(map(str, array.shape[:3]))} to {"x".join(map(str, here[:3]))}'
        elif path in heads or path.startswith('constants/'):  # constants follow from the network's size
            fit.new.append(path)
        elif array is None:
            fit.missing[path] = here
        else:
            fit.misshapen[path] = array.shape, here
            if tables is None and new and array.shape[1:] == here[1:]:
                fit.unknown.append(path)
    unexpected = {path: array.shape for path, array in old.items() if path not in wanted}
    _refuse(config, fit, unexpected, origin.name)
    return Inherited(fit.taken, [*_lines(fit, origin.name), *origin.lines])


def begin(config: Config, setup: Setup, state: TrainState, inherited: Inherited) -> TrainState:
    """The state before the first step, with what was inherited in the place of what was drawn."""
    objective = config.objective
    flat = {**flatten_dict(objective.network(state.variables), sep='/'), **inherited.arrays}
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.state)

    def replaced(state: TrainState, flat: Mapping[str, Any]) -> TrainState:
        variables = dict(objective.with_network(state.variables, unflatten_dict(flat, sep='/')))
        params = variables.pop('params')
        ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
        return state.replace(params=params, collections=variables, ema=ema)

    return jax.jit(replaced, out_shardings=shardings)(state, flat)


def _read(config: Config, setup: Setup) -> _Origin:
    path, size = place(config.init, 'init'), config.init_image_size
    if is_run(config.init):
        if size:
            raise UserError(f'init_image_size={size} goes with a file of weights: the run {config.init} knows its own')
        run = open_run(config.init, 'best')
        arrays = jax.device_get(flatten_dict(run.network, sep='/'))
        name = f'{config.init} ({run.config.model.name}, best checkpoint, step {run.step})'
        return _Origin(arrays, name, _tables(run.model, run.facts.shape), run.config.objective.classifies)
    if not path.is_file() and not (path / '_METADATA').exists():
        return _published(config, setup)
    try:
        # Of a checkpoint of a run, what is trained.
        arrays = without_prefix(read_arrays(path), 'collections/')
    except FileError as error:
        raise UserError(f'init: {error}; name a run or pretrained weights') from error
    if not any(name.startswith('params/') for name in arrays):
        return _published(config, setup)
    arrays = {name: array for name, array in arrays.items() if not name.startswith(('opt_state/', 'ema/', 'step'))}
    tables = None
    if size:
        *time, _, _, channels = config.augment.shape(config.data)
        shape = (*time, *(size * 2)[:2], channels)
        args = {key: value for key, value in config.model.args.items() if key not in SIZES}
        model = build(dataclasses.replace(config.model, args=args), shape, len(config.data.classes))
        tables = _tables(model, shape)
    return _Origin(arrays, config.init, tables)


def _published(config: Config, setup: Setup) -> _Origin:
    """Weights with the names of another library, whose configuration or `model.name` says of which network."""
    found = published(config.init)
    if not found.model:
        found = dataclasses.replace(found, model=config.model.name)
    try:
        size = {key: config.init_image_size for key in SIZES if config.init_image_size and setup.model.takes(key)}
        said: list[str] = []
        network, variables, source = found.load(said.append, **size)
    except ValueError as error:
        raise UserError(f'init: {error}') from error
    if type(network) is not type(setup.model):
        raise UserError(
            f'init: {found.name} is of {found.model!r}, a {type(network).__name__}, and '
            f'model.name={config.model.name!r} a {type(setup.model).__name__}'
        )
    example = network.example_input()
    height, width, channels = example.shape[-3:]
    return _Origin(
        jax.device_get(flatten_dict(variables, sep='/')),
        found.name,
        _tables(network, (height, width, channels)),
        resampling=SOURCES[source].resampling_of(network),
        lines=(*(f'  {line}' for line in said), *_of_images(found, setup)),
    )


def _of_images(found: Checkpoint, setup: Setup) -> tuple[str, ...]:
    """A line if the weights expect images of another normalisation."""
    if found.images is None:
        return ()
    theirs, ours = found.preprocessing, setup.scale
    pairs = [(theirs.mean, ours.mean), (theirs.std, ours.std)]
    if all(np.allclose(mine, its, atol=1e-3) for mine, its in pairs):
        return ()
    mean, std = (' '.join(f'{value:.4g}' for value in values) for values in (theirs.mean, theirs.std))
    return (f'  its images had another mean or deviation: --augment.mean {mean} --augment.std {std} are the same',)


def _tables(model: Backbone, shape: Shape) -> dict[str, PositionTable]:
    """The position tables of a network by path, layers as one; for an image or video of this shape."""
    found = position_tables(model, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return {_of_layers(f'params/{path}'): table for path, table in found.items()}


def _of_layers(path: str) -> str:
    """The path where the layers of a trunk are stacked."""
    return '/'.join(stacked_path(tuple(path.split('/')))[0])


def _holds(array: Any, table: PositionTable) -> bool:
    """Whether an array can be of this table, alone or of many layers."""
    return bool(array.size) and array.size % table.rows == 0


def _words(table: PositionTable) -> str:
    return 'x'.join(map(str, table.grid))


def _in_layout(old: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """The same arrays with blocks as the new network has them: one by one or, where it scans them, stacked."""
    found, wanted = dict(old), set(wanted)
    for together, layers in _layers(wanted).items():
        if together in found and len(found[together]) == len(layers):
            found |= zip(layers, found.pop(together), strict=True)
    for together, layers in _layers(old).items():
        if together in wanted:
            found[together] = np.stack([found.pop(path) for path in layers])
    return found


def _layers(names: Iterable[str]) -> dict[str, list[str]]:
    """Path of a stacked leaf -> the paths of its layers, in order."""
    found: dict[str, dict[tuple[int, ...], str]] = {}
    for path in names:
        together, index = stacked_path(tuple(path.split('/')))
        if index:
            found.setdefault('/'.join(together), {})[index] = path
    return {together: [layers[i] for i in sorted(layers)] for together, layers in found.items()}


def _refuse(config: Config, fit: _Fit, unexpected: Mapping[str, Shape], what: str) -> None:
    """Raises a `UserError` that lists everything that does not fit."""
    if not (fit.missing or fit.misshapen or unexpected):
        return
    lines = []
    for word, names, others in (('missing', fit.missing, unexpected), ('unexpected', unexpected, fit.missing)):
        known = [entry.name for entry in fold(others)]
        for entry in fold(names):
            near = difflib.get_close_matches(entry.name, known, n=1)
            hint = f' (nearest {"there" if word == "missing" else "here"}: {near[0]})' if near else ''
            lines.append(f'  {word}: {entry.name} {entry.value}{hint}')
    for entry in fold(fit.misshapen):
        there, here = entry.value
        lines.append(f'  other shape: {entry.name} is {there} there and {here} here')
    if fit.unknown:
        lines.append('  say with --init-image-size the height and width of the images that it was trained on')
    raise UserError(f'init: {what} does not fit model {config.model.name!r}:\n' + '\n'.join(lines))


def _lines(fit: _Fit, what: str) -> list[str]:
    lines = [f'begins with {len(fit.taken)} arrays of {what}']
    lines += [f'  resized: {path.removeprefix("params/")}, from {how}' for path, how in fit.resized.items()]
    if fit.new:
        lines.append('  new: ' + ', '.join(path.removeprefix('params/') for path in fit.new))
    return lines
