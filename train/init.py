"""Fine-tuning: a run that begins with the parameters of another, or of a file of weights."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from train.config import Config
from train.errors import UserError
from train.grids import proportional, token_grid
from train.heads import head_parameters
from train.run import open_run
from train.setup import Setup
from train.state import TrainState
from vit_flax import resize_position_embedding
from vit_flax.cli.text import fold
from vit_flax.weights.files import FileError, read_arrays
from vit_flax.weights.formats.names import without_prefix

Shape = tuple[int, ...]

# One of the blocks of a trunk that is not scanned.
BLOCK = re.compile(r'(^|/)block_(\d+)/')


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


def inherit(config: Config, setup: Setup) -> Inherited:
    """Reads `config.init` and fits it to the network of `setup`.

    A head of another shape stays new, learned positions of another grid are resized.

    Raises:
      UserError: it cannot be read, or anything else is missing, unexpected or of another shape; all of it is listed.
    """
    old, size, what, has_head = _read(config.init)
    shape = config.augment.shape(config.data)
    heads = {f'params/{path}' for path in head_parameters(setup.model, shape)}
    network = config.objective.network(setup.state.variables)
    wanted = {path: leaf.shape for path, leaf in flatten_dict(network, sep='/').items()}
    old = _in_layout(old, wanted)
    if not has_head:
        old = {path: array for path, array in old.items() if path not in heads}
    fit = _Fit()
    for path, here in wanted.items():
        array = old.get(path)
        if array is not None and array.shape == here:
            fit.taken[path] = array
        elif path in heads or path.startswith('constants/'):  # constants follow from the network's size
            fit.new.append(path)
        elif array is None:
            fit.missing[path] = here
        else:
            grids = _grids(path, array.shape, here, size, (shape[-3], shape[-2]), setup.model)
            if grids is None:
                fit.misshapen[path] = array.shape, here
            else:
                prefix, before, after = grids
                fit.taken[path] = resize_position_embedding(array, before, after, prefix_tokens=prefix, antialias=True)
                fit.resized[path] = f'{before[0]}x{before[1]} to {after[0]}x{after[1]} places'
    unexpected = {path: array.shape for path, array in old.items() if path not in wanted}
    _refuse(config, fit, unexpected, what)
    return Inherited(fit.taken, _lines(fit, what))


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


def _read(place: str) -> tuple[dict[str, np.ndarray], tuple[int, int], str, bool]:
    """Arrays by path, height and width of the images they know, what it is in words, and whether their head has learned
    anything."""
    path = Path(place).expanduser()
    if path.is_dir() and not (path / '_METADATA').exists():
        run = open_run(place, 'best')
        arrays = jax.device_get(flatten_dict(run.network, sep='/'))
        name = f'{place} ({run.config.model.name}, best checkpoint, step {run.step})'
        return arrays, run.facts.size, name, run.config.objective.classifies
    try:
        # Of a checkpoint of a run, what is trained.
        arrays = without_prefix(read_arrays(path), 'collections/')
    except FileError as error:
        raise UserError(f'init: {error}; name a run or a file of weights') from error
    if not any(name.startswith('params/') for name in arrays):
        some = next(iter(arrays), 'nothing')
        raise UserError(
            f"init={place!r} holds {some!r}, which is no path of Flax's: `python -m vit_flax convert` translates "
            "weights with PyTorch's names"
        )
    arrays = {name: array for name, array in arrays.items() if not name.startswith(('opt_state/', 'ema/', 'step'))}
    return arrays, (1, 1), place, True


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
    """What a path is called where blocks are stacked -> the paths of the single blocks, in order."""
    found: dict[str, dict[int, str]] = {}
    for path in names:
        if block := BLOCK.search(path):
            found.setdefault(BLOCK.sub(r'\1block/', path, count=1), {})[int(block[2])] = path
    return {together: [layers[i] for i in sorted(layers)] for together, layers in found.items()}


def _grids(
    path: str, there: Shape, here: Shape, size: tuple[int, int], new_size: tuple[int, int], model: nn.Module
) -> tuple[int, tuple[int, int], tuple[int, int]] | None:
    """Rows of a position table without a place, and its old and new grid; None if it is no such table."""
    if 'pos' not in '/'.join(path.split('/')[-2:]) or len(there) != 2 or len(here) != 2 or there[1] != here[1]:
        return None
    new = token_grid(here[0], new_size, model)
    if new is None or new.prefix + new.rows * new.columns != here[0]:
        return None
    old = proportional(there[0] - new.prefix, size)
    return None if old is None else (new.prefix, old, (new.rows, new.columns))


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
    raise UserError(f'init: {what} does not fit model {config.model.name!r}:\n' + '\n'.join(lines))


def _lines(fit: _Fit, what: str) -> list[str]:
    lines = [f'begins with {len(fit.taken)} arrays of {what}']
    lines += [f'  resized: {path.removeprefix("params/")}, from {how}' for path, how in fit.resized.items()]
    if fit.new:
        lines.append('  new: ' + ', '.join(path.removeprefix('params/') for path in fit.new))
    return lines
