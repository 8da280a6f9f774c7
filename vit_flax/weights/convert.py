"""`from_torch` and `to_torch`."""

import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_flax.blocks.checks import check_choice
from vit_flax.blocks.module import example_inputs as of_model
from vit_flax.printing import shown
from vit_flax.weights import huggingface, timm, vit_pytorch
from vit_flax.weights.formats.pytorch import from_tensor
from vit_flax.weights.table import Table, build_table

# Each translates a state dict to the names of the model's own source, vit-pytorch's newest or timm's, and back.
SOURCES = {'vit_pytorch': vit_pytorch, 'timm': timm, 'huggingface': huggingface}
OWN = 'vit_pytorch', 'timm'

# Pairs of names that are compared, to find the nearest.
MAX_PAIRS = 10**6


def from_torch(
    model: nn.Module, state_dict: Mapping[str, Any], *example_inputs: Any, source: str, **kwargs: Any
) -> dict[str, Any]:
    """A PyTorch state dict as variables of the Flax model; torch itself is not needed.

    Strict on both sides: every name must be used and every variable filled, in the right shape.
    State dicts of older releases of the source are recognised where the mathematics is the same.

    Args:
      model: the Flax model.
      state_dict: names to torch tensors or numpy arrays.
      *example_inputs: inputs, or `jax.ShapeDtypeStruct`s, that the model can be traced with;
        the model's own `example_input()` if left out.
      source: where the names come from: `vit_pytorch`, for timm's networks `timm`, or `huggingface` for SigLIP.
      **kwargs: further arguments of the model's call.

    Returns:
      `{'params': ..., 'batch_stats': ...}` with the dtypes of the state dict (64 bits only with
      JAX's x64 mode, as for any JAX array).

    Raises:
      ValueError: one report of all names that are missing, unexpected or of another shape.
    """
    _check_source(model, source)
    table = build_table(model, *_inputs(model, example_inputs), **kwargs)
    arrays = {name: _to_numpy(value) for name, value in state_dict.items()}
    arrays = SOURCES[source].read(model, arrays)
    _check(table, arrays)
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
      source: whose names to write: `vit_pytorch`, in its newest release's layout, for timm's networks `timm`, or
        `huggingface` for SigLIP.
      **kwargs: further arguments of the model's call.

    Returns:
      What `torch_model.load_state_dict({k: torch.from_numpy(v) for ...})` takes strictly.

    Raises:
      ValueError: variables are missing or of another shape.
    """
    _check_source(model, source)
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
    return SOURCES[source].write(model, state_dict)


def _check_source(model: nn.Module, source: str) -> None:
    check_choice('source', source, tuple(SOURCES))
    own = getattr(model, 'torch_source', OWN[0])
    if source in OWN and source != own:
        raise ValueError(f'source={source!r}: {type(model).__name__} is a model of source={own!r}')


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


def _to_numpy(value: Any) -> np.ndarray:
    return from_tensor(value) if hasattr(value, 'detach') else np.asarray(value)


def _check(table: Table, arrays: Mapping[str, np.ndarray]) -> None:
    expected = {name: entry.torch_shape for entry in table.entries for name in entry.torch_names}
    expected |= {name: value.shape for name, value in table.constants.items()}
    missing = sorted(expected.keys() - arrays.keys())
    unexpected = sorted(arrays.keys() - expected.keys())
    problems = []
    for kind, names, others in (('missing', missing, unexpected), ('unexpected', unexpected, missing)):
        others = others or [*expected]
        # each pair takes some ten microseconds
        some = others if len(names) * len(others) < MAX_PAIRS else []
        for name in names:
            near = difflib.get_close_matches(name, some, n=1)
            problems.append(f'{kind}: {shown(name)}' + (f' (nearest: {shown(near[0])})' if near else ''))
    for name in sorted(expected.keys() & arrays.keys()):
        if arrays[name].shape != expected[name]:
            problems.append(f'shape of {name}: the model has {expected[name]}, the state dict {arrays[name].shape}')
        elif name in table.constants and not np.array_equal(arrays[name], table.constants[name]):
            problems.append(f'{name}: a constant of the model, with other values in the state dict')
    for entry in table.entries:
        for tie in entry.ties:
            same = [arrays[name] for name in (entry.names[0], tie) if name in arrays]
            if len(same) == 2 and same[0].tobytes() != same[1].tobytes():
                problems.append(f'{tie}: other values than {entry.names[0]}, which is the same array in the model')
    if problems:
        raise ValueError(
            f'the state dict does not fit the model ({len(problems)} problems):\n  ' + '\n  '.join(problems)
        )
