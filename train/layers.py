"""How deep in the network each parameter is, for any architecture: read from one traced run of the model."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from vit_flax.taps import Call, watch
from vit_flax.weights.layers import stacked_path

# What every model shows at the end of its embedding and of each block.
BOUNDARY = re.compile(r'embedding|block(_\d+)?')


def depths(model: nn.Module, *inputs: Any) -> dict[str, np.ndarray]:
    """Parameter path -> its depth: 0 for what embeds, then counted up by the blocks, highest for the head.

    Where blocks are scanned, the depth of a stacked parameter is an array with a number for each layer.

    Args:
      model: its taps `embedding` and `block` divide it.
      *inputs: what it is called with.
    """
    loop = model.clone(scan=False) if getattr(model, 'scan', False) else model
    first_called = _first_called(loop, *inputs)
    unrolled = {path: _depth(path, first_called) for path in _parameters(loop, *inputs)}
    if loop is model:
        return {path: np.array(depth) for path, depth in unrolled.items()}
    stacked: dict[str, dict[tuple[int, ...], int]] = {}
    for path, depth in unrolled.items():
        together, index = stacked_path(tuple(path.split('/')))
        stacked.setdefault('/'.join(together), {})[index] = depth
    found = {}
    for path in _parameters(model, *inputs):
        layers = stacked[path]
        sizes = [last + 1 for last in max(layers)]
        found[path] = np.array([layers[index] for index in sorted(layers)]).reshape(sizes)
    return found


def _parameters(model: nn.Module, *inputs: Any) -> list[str]:
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
    return [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in jax.tree.leaves_with_path(params)]


def _first_called(model: nn.Module, *inputs: Any) -> Mapping[tuple[str, ...], int]:
    """Path of a module -> how many boundaries lie before its first call."""
    found: dict[tuple[str, ...], int] = {}
    passed, at_boundary = 0, False

    def count(call: Call) -> None:
        nonlocal passed, at_boundary
        if call.method == 'tap':
            at_boundary = at_boundary or BOUNDARY.fullmatch(call.args[0]) is not None
        elif call.path not in found:
            # Several taps in a row, as of two streams of tokens, are one boundary.
            passed += at_boundary
            at_boundary = False
            found[call.path] = passed

    with watch(before=count):
        jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return found


def _depth(path: str, first_called: Mapping[tuple[str, ...], int]) -> int:
    """The depth of the module that owns a parameter, or of the nearest around it that was called."""
    owner = tuple(path.split('/'))[:-1]
    while owner not in first_called:
        owner = owner[:-1]
    return first_called[owner]
