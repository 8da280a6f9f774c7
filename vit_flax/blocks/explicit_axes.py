"""Modules under a mesh of explicit axes, JAX's default, where the sharding of an array is part of its type.

There every reshape that cuts an axis, every concatenation and every convolution must say how its result is sharded,
which a module that knows no mesh cannot. So the outermost call of a module runs with these axes automatic: its
arguments keep their places, the compiler spreads what is computed, and the results get explicit shardings again.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.core import lift
from jax import Array
from jax.sharding import AbstractMesh, AxisType, PartitionSpec


def axes_are_explicit() -> bool:
    """Whether the mesh in use, if there is one, has axes of which arrays must say whether they are split over them."""
    return bool(jax.sharding.get_abstract_mesh().explicit_axes)


def with_automatic_axes(module: nn.Module, method: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """Calls a method of a bound module with all axes automatic.

    The batch is the first axis by which an array among the arguments is split. Results and taps are split likewise, by
    their first axis of this length; variables keep the sharding that they came with. All else, such as parameters
    that are made here, is whole on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    automatic = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
    with jax.sharding.use_abstract_mesh(automatic):
        return nn.transforms.lift_direct_transform(partial(_lifted, mesh), (method,), module, *args, **kwargs)


def _lifted(mesh: AbstractMesh, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function(scopes, *args, **kwargs)`, from and to arrays whose types belong to this mesh."""

    def run(scopes: Callable, repack: Callable, variables: Any, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        batch = _batch((args, kwargs))
        specs = {path: _spec(leaf) for path, leaf in jax.tree.leaves_with_path(variables) if isinstance(leaf, Array)}
        variables, rngs, args, kwargs = jax.tree.map(_without_spec, (variables, rngs, args, kwargs))
        inner = scopes(variables, rngs)
        output = function(inner, *args, **kwargs)
        state = repack(inner)

        def in_state(path: tuple, leaf: Any) -> Any:
            otherwise = _like_batch(leaf, *batch) if _is_tap(path) else PartitionSpec()
            return _with_spec(leaf, specs.get(path, otherwise))

        with jax.sharding.use_abstract_mesh(mesh):
            output = jax.tree.map(lambda leaf: _with_spec(leaf, _like_batch(leaf, *batch)), output)
            return output, jax.tree.map_with_path(in_state, state)

    return lift.pack(run, (True,), (True,), (True,), name='automatic_axes', enable_kwargs=True)(*args, **kwargs)


def _spec(x: Array) -> PartitionSpec:
    return jax.typeof(x).sharding.spec


def _with_spec(leaf: Any, spec: PartitionSpec) -> Any:
    return jax.sharding.reshard(leaf, spec) if isinstance(leaf, Array | np.ndarray) else leaf


def _without_spec(leaf: Any) -> Any:
    """An array where it is, of a type that does not say so; anything else as it is."""
    return _with_spec(leaf, PartitionSpec())


def _batch(arguments: Any) -> tuple[int, Any]:
    """Length of the first axis that is split, and the axes of the mesh that it is split over; 0 if none is."""
    for leaf in jax.tree.leaves(arguments):
        for length, axes in zip(leaf.shape, _spec(leaf), strict=False) if isinstance(leaf, Array) else ():
            if axes is not None:
                return length, axes
    return 0, None


def _like_batch(leaf: Any, length: int, axes: Any) -> PartitionSpec:
    shape = jax.numpy.shape(leaf) if isinstance(leaf, Array) else ()
    return PartitionSpec(*[None] * shape.index(length), axes) if length in shape else PartitionSpec()


def _is_tap(path: tuple) -> bool:
    return any(getattr(key, 'key', None) == 'intermediates' for key in path)
