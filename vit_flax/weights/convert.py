"""`from_torch` and `to_torch`."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_flax.blocks.checks import check_choice
from vit_flax.blocks.module import example_inputs as of_model
from vit_flax.weights.check import problems
from vit_flax.weights.formats.pytorch import from_tensor
from vit_flax.weights.source import Report, Source
from vit_flax.weights.sources import OWN, SOURCES, recognised
from vit_flax.weights.table import Table, build_table

# What wrappers of single modules put into names: torch.compile, FSDP, checkpoints of activations.
INSIDE = re.compile(r'(?<![^./])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


def from_torch(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    *example_inputs: Any,
    source: str,
    report: Report | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """A PyTorch state dict as variables of the Flax model; torch itself is not needed.

    Strict on both sides: every name must be used and every variable filled, in the right shape. State dicts of older
    releases of the source are recognised where the mathematics is the same. What is around a state dict, a checkpoint
    (`{'model': ...}`, `{'teacher': ...}`) or a wrapper (`module.`, `_orig_mod.`, `backbone.`), is taken off.

    Args:
      model: the Flax model.
      state_dict: names to torch tensors or numpy arrays, or mappings of these.
      *example_inputs: inputs, or `jax.ShapeDtypeStruct`s, that the model can be traced with;
        the model's own `example_input()` if left out.
      source: whose names they are, such as `vit_pytorch`, `timm`, `huggingface` or `google` (docs/weights.md); with a
        `/` the network there, such as `huggingface/SigLIP`, which is only needed to write one of several that fit.
      report: called with a line about each thing that is taken off or left out, such as `print`.
      **kwargs: further arguments of the model's call.

    Returns:
      `{'params': ..., 'batch_stats': ...}` with the dtypes of the state dict (64 bits only with
      JAX's x64 mode, as for any JAX array).

    Raises:
      ValueError: one report of all names that are missing, unexpected or of another shape, or whose names these are
        if they are of another source.
    """
    chosen = _chosen(model, source)
    say = report or (lambda line: None)
    table = build_table(model, *_inputs(model, example_inputs), **kwargs)
    given = flat(state_dict, say)
    try:
        arrays = chosen.read(model, given, _shapes(table), say)
        _check(table, arrays)
    except ValueError as error:
        other = recognised(given)
        if other and not chosen.matches(given):
            name = other.partition(' ')[0]
            raise ValueError(
                f'source={source!r}: these are names of {other}; for a model that has such a network '
                f'source={name!r} reads them'
            ) from error
        raise
    # A copy: on a CPU JAX may otherwise share the memory of the caller's tensors. Made by numpy, since jnp.array would
    # compile a program for each shape.
    return unflatten_dict({entry.path: jax.device_put(np.array(entry.to_flax(arrays))) for entry in table.entries})


def to_torch(
    model: nn.Module, variables: Mapping[str, Any], *example_inputs: Any, source: str, **kwargs: Any
) -> dict[str, np.ndarray]:
    """The Flax variables as a PyTorch state dict of numpy arrays, bit for bit.

    Args:
      model: the Flax model.
      variables: its variables; collections that torch does not know (taps) are left out.
      *example_inputs: as for `from_torch`.
      source: whose names to write, in its newest release's layout, as for `from_torch`.
      **kwargs: further arguments of the model's call.

    Returns:
      What `torch_model.load_state_dict({k: torch.from_numpy(v) for ...})` takes strictly.

    Raises:
      ValueError: variables are missing or of another shape, or the source has no network that computes the same.
    """
    chosen = _chosen(model, source)
    table = build_table(model, *_inputs(model, example_inputs), **kwargs)
    leaves = flatten_dict(dict(variables))
    wrong = [
        f'{"/".join(entry.path)}: expected {entry.shape}, got {np.shape(leaves[entry.path])}'
        if entry.path in leaves
        else f'{"/".join(entry.path)}: missing'
        for entry in table.entries
        if entry.path not in leaves or np.shape(leaves[entry.path]) != entry.shape
    ]
    if wrong:
        raise ValueError('the variables do not belong to this model:\n  ' + '\n  '.join(wrong))
    dtypes = {leaf.dtype for path, leaf in leaves.items() if path[0] == 'params' and hasattr(leaf, 'dtype')}
    state_dict = {name: _in_dtype(value, dtypes) for name, value in table.constants.items()}
    for entry in table.entries:
        array = np.asarray(leaves[entry.path])
        # torch counts batches in 64 bits
        array = array.astype(np.int64) if entry.path[-1] == 'count' else array
        state_dict |= entry.to_torch(array)
    return chosen.write(model, state_dict)


def _chosen(model: nn.Module, source: str) -> Source:
    """The source of this name, all of its families or, of `huggingface/SigLIP`, one."""
    name, _, family = source.partition('/')
    check_choice('source', name, tuple(SOURCES))
    own = getattr(model, 'torch_source', OWN[0])
    if name in OWN and name != own:
        raise ValueError(f'source={source!r}: {type(model).__name__} is a model of source={own!r}')
    if '/' not in source:
        return SOURCES[name]
    check_choice('source', source, tuple(f'{name}/{one.title}' for one in SOURCES[name].families))
    families = tuple(one for one in SOURCES[name].families if one.title == family)
    return dataclasses.replace(SOURCES[name], families=families)


def _inputs(model: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if example_inputs:
        return example_inputs
    if not hasattr(model, 'example_input'):
        raise ValueError(f'{type(model).__name__} does not know its input: give example_inputs')
    return of_model(model)


def _in_dtype(constant: np.ndarray, dtypes: set[Any]) -> np.ndarray:
    """A floating-point constant in the dtype of the parameters, if they have one in common, as in PyTorch."""
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return constant.astype(floating[0]) if len(floating) == 1 and constant.dtype.kind == 'f' else constant


def flat(state_dict: Mapping[str, Any], report: Report) -> dict[str, np.ndarray]:
    """The arrays of a state dict, or of mappings of such, with the names of levels joined by `/`."""
    nested = any(isinstance(value, Mapping) for value in state_dict.values())
    arrays, wrappers = {}, set()
    for name, value in _leaves(state_dict):
        wrappers |= {*INSIDE.findall(name)}
        # what stands beside a state dict: numbers, optimizers, settings
        if nested and not hasattr(value, 'shape'):
            continue
        arrays[INSIDE.sub('', name)] = from_tensor(value) if hasattr(value, 'detach') else np.asarray(value)
    if wrappers:
        report(f'took {", ".join(sorted(wrappers))} out of names')
    return arrays


def _leaves(tree: Mapping[str, Any], above: str = '') -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f'{above}{name}/')
        else:
            yield f'{above}{name}', value


def _shapes(table: Table) -> dict[str, tuple[int, ...]]:
    """Of the model's own state dict."""
    expected = {name: entry.torch_shape for entry in table.entries for name in entry.torch_names}
    return expected | {name: value.shape for name, value in table.constants.items()}


def _check(table: Table, arrays: Mapping[str, np.ndarray]) -> None:
    found = problems(_shapes(table), {name: array.shape for name, array in arrays.items()})
    for name, constant in table.constants.items():
        given = arrays.get(name, constant)
        if given.shape == constant.shape and not np.array_equal(given, constant):
            found.append(f'{name}: a constant of the model, with other values in the state dict')
    for entry in table.entries:
        for tie in entry.ties:
            same = [arrays[name] for name in (entry.names[0], tie) if name in arrays]
            if len(same) == 2 and same[0].tobytes() != same[1].tobytes():
                found.append(f'{tie}: other values than {entry.names[0]}, which is the same array in the model')
    if found:
        raise ValueError(f'the state dict does not fit the model ({len(found)} problems):\n  ' + '\n  '.join(found))
