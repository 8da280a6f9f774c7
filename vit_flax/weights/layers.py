"""Variables of one layer after another, and of all layers stacked: what a model reads with `scan=False` and `True`."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_flax.blocks.module import example_inputs as of_model

Path = tuple[str, ...]
LAYER = re.compile(r'block_(\d+)')


def stack_layers(model: nn.Module, variables: Mapping[str, Any], *example_inputs: Any, **kwargs: Any) -> dict[str, Any]:
    """The variables of `model.clone(scan=False)` for `model.clone(scan=True)`, bit for bit.

    Layers stand one after another as `block_0`, `block_1`, ... in the first and along a leading axis of `block` in the
    second. Variables that are stacked already stay as they are.

    Args:
      model: a model with an argument `scan`, whatever it is now.
      variables: its variables, of one collection or of several; gradients and moments of the optimizer are of the same
        form. Each leaf keeps its kind: numpy's, JAX's, or traced.
      *example_inputs: inputs, or `jax.ShapeDtypeStruct`s, to trace the model with; its own `example_input()` if left
        out.
      **kwargs: further arguments of the model's call.

    Raises:
      ValueError: the model has no `scan`, or variables are missing, unexpected or of another shape.
    """
    return _laid_out(model, True, variables, example_inputs, kwargs)


def unstack_layers(
    model: nn.Module, variables: Mapping[str, Any], *example_inputs: Any, **kwargs: Any
) -> dict[str, Any]:
    """The inverse of `stack_layers`, which has the arguments: the variables for `model.clone(scan=False)`."""
    return _laid_out(model, False, variables, example_inputs, kwargs)


def _laid_out(
    model: nn.Module, scan: bool, variables: Mapping[str, Any], inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    if 'scan' not in type(model).__dataclass_fields__:
        raise ValueError(f'model={type(model).__name__} has no argument scan: its layers are not stacked')

    def init(*inputs: Any) -> Any:
        return model.clone(scan=scan).init(jax.random.key(0), *inputs, **kwargs)

    shapes = flatten_dict(jax.eval_shape(init, *(inputs or of_model(model))))
    wanted = {path: leaf.shape for path, leaf in shapes.items() if path[0] in variables}
    leaves = flatten_dict(dict(variables))
    expected: dict[Path, tuple[int, ...]] = {}
    for path, shape in wanted.items():
        if path in leaves:
            expected[path] = shape
        elif scan:
            expected |= dict.fromkeys(_layers(path, shape), shape[path.count('block') :])
        else:
            whole, numbers = stacked_path(path)
            before = expected.get(whole, numbers)
            expected[whole] = *(max(n + 1, size) for n, size in zip(numbers, before, strict=False)), *shape
    problems = [f'missing: {"/".join(path)}' for path in expected.keys() - leaves.keys()]
    problems += [f'unexpected: {"/".join(path)}' for path in leaves.keys() - expected.keys()]
    problems += [
        f'{"/".join(path)}: expected {expected[path]}, got {np.shape(leaves[path])}'
        for path in expected.keys() & leaves.keys()
        if np.shape(leaves[path]) != expected[path]
    ]
    if problems:
        raise ValueError('the variables do not belong to this model:\n  ' + '\n  '.join(sorted(problems)))

    def moved(path: Path, shape: tuple[int, ...]) -> Any:
        if path in leaves:
            return leaves[path]
        if not scan:
            whole, numbers = stacked_path(path)
            return leaves[whole][numbers]
        layers = [leaves[layer] for layer in _layers(path, shape)]
        numpy: Any = np if all(isinstance(layer, np.ndarray) for layer in layers) else jnp
        return numpy.stack(layers).reshape(shape)

    return unflatten_dict({path: moved(path, shape) for path, shape in wanted.items()})


def _layers(path: Path, shape: tuple[int, ...]) -> list[Path]:
    """Where the layers of a stacked leaf of this shape stand one by one."""
    numbers = map(iter, itertools.product(*(range(size) for size in shape[: path.count('block')])))
    return [tuple(f'block_{next(each)}' if part == 'block' else part for part in path) for each in numbers]


def stacked_path(path: Path) -> tuple[Path, tuple[int, ...]]:
    """Path of the stacked leaf that holds a leaf of one layer, and the index in it; `()` for one of no layer."""
    numbers = tuple(int(match[1]) for match in map(LAYER.fullmatch, path) if match)
    return tuple('block' if LAYER.fullmatch(part) else part for part in path), numbers
