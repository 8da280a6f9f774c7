"""Where everything lives: the mesh, and the rules that split parameters, optimizer state and batches over it."""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.config import Mesh
from train.errors import UserError
from train.optim import paths
from vit_flax.blocks.backend import compiling_for
from vit_flax.taps import Call, watch

AXES = ('data', 'fsdp', 'tensor', 'seq')
ROWS = ('data', 'fsdp')


def make_mesh(config: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh over all devices, or over given ones, which need not be here: those of a topology to compile for.

    Raises:
      UserError: the four sizes do not multiply to the number of devices.
    """
    number = jax.device_count() if devices is None else len(devices)
    rest = config.fsdp * config.tensor * config.seq
    sizes = f'mesh.fsdp={config.fsdp} x mesh.tensor={config.tensor} x mesh.seq={config.seq}'
    if number % rest:
        raise UserError(f'{sizes} = {rest} does not divide the {number} devices here')
    if config.data not in (0, number // rest):
        raise UserError(
            f'mesh.data={config.data} x {sizes} = {config.data * rest}, but there are {number} devices: '
            f'mesh.data={number // rest} would fit'
        )
    shape = (number // rest, config.fsdp, config.tensor, config.seq)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def platform_of(mesh: jax.sharding.Mesh) -> str:
    return mesh.devices.flat[0].platform


def traced_for(mesh: jax.sharding.Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function to be jitted for a mesh, whose devices need not be JAX's default ones, nor be here at all."""

    @wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with compiling_for(platform_of(mesh)), split_by_batch(mesh):
            return function(*args, **kwargs)

    return traced


def split_by_batch(mesh: jax.sharding.Mesh) -> AbstractContextManager[None]:
    """A context in which what modules return stays split over the mesh by its leading axis, the batch.

    The compiler only knows how the arguments of a program lie. Left alone, it moves activations to where the parameters
    are: under fsdp it splits the width of the tokens instead of the batch, and sums whole batches over the devices in
    every layer. A constraint on what each module returns, and with it on the gradient of that, leaves it one way:
    parameters are gathered where they are used, and their gradients scattered.

    All other axes are left to the compiler, which splits them by `tensor` and `seq` as parameters and images are.
    """
    copies = mesh.shape['data'] * mesh.shape['fsdp']

    def constrained(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.ndim < 2 or not x.shape[0] or x.shape[0] % copies:
            return x
        rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(ROWS, *rest)))

    def after(call: Call, output: Any) -> Any:
        # Other methods may return what has no batch, such as positions.
        return jax.tree.map(constrained, output) if call.method == '__call__' else None

    return watch(after=after) if copies > 1 else nullcontext()


def check_batch(mesh: jax.sharding.Mesh, batch_size: int, parts: int, image_shape: tuple[int, ...]) -> None:
    """Raises a `UserError` if the rows of a batch or of an image do not divide over the mesh."""
    copies = mesh.shape['data'] * mesh.shape['fsdp']
    if batch_size % copies == 0 and batch_size % (copies * parts):
        raise UserError(
            f'batch_size={batch_size} in optim.accumulate={parts} parts: take a multiple of {copies * parts}'
        )
    if batch_size % copies:
        raise UserError(
            f'batch_size={batch_size} does not divide over mesh.data={mesh.shape["data"]} x '
            f'mesh.fsdp={mesh.shape["fsdp"]}: take a multiple of {copies}'
        )
    if image_shape[0] % mesh.shape['seq']:
        what = 'rows of an image' if len(image_shape) == 3 else 'frames of a video'
        raise UserError(f'mesh.seq={mesh.shape["seq"]} does not divide the {image_shape[0]} {what}')


def batch_sharding(mesh: jax.sharding.Mesh, ndim: int) -> NamedSharding:
    """Rows of a batch over `data` and `fsdp`; of images `[b h w c]` also the rows of pixels, of videos
    `[b t h w c]` the frames, over `seq`."""
    return NamedSharding(mesh, PartitionSpec(ROWS, 'seq') if ndim >= 4 else PartitionSpec(ROWS))


def state_sharding(state, mesh: jax.sharding.Mesh, config: Mesh):
    """A tree of shardings like `state`: parameters and collections, such as a teacher's, by the rules, and what belongs
    to a parameter as that parameter.

    Args:
      state: shapes of the whole train state; its parameters are `state.params`.
      mesh: from `make_mesh`.
      config: the rules.
    """
    specs = {
        path: (leaf.shape, parameter_spec(path, leaf.shape, mesh, config))
        for path, leaf in zip(paths(state.params), jax.tree.leaves(state.params), strict=True)
    }

    def place(path: str, shape: tuple[int, ...]) -> NamedSharding:
        # Adam's moments and the average have the parameter's path behind their own name.
        parts = path.split('/')
        for start in range(len(parts)):
            own = specs.get('/'.join(parts[start:]))
            if own is not None and own[0] == shape:
                return NamedSharding(mesh, own[1])
        spec = parameter_spec(path, shape, mesh, config) if parts[0] == 'collections' else PartitionSpec()
        return NamedSharding(mesh, spec)

    shardings = [place(path, leaf.shape) for path, leaf in zip(paths(state), jax.tree.leaves(state), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(state), shardings)


def given_sharding(given, mesh: jax.sharding.Mesh, config: Mesh):
    """The same for trees of variables that are no part of the state, such as a teacher's."""

    def place(path, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        return NamedSharding(mesh, parameter_spec(name, leaf.shape, mesh, config))

    return jax.tree.map_with_path(place, given)


def abstract(tree):
    """Shapes, dtypes and shardings of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def parameter_spec(path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh, config: Mesh) -> PartitionSpec:
    """The first rule that matches; then `fsdp` on the largest free axis that it divides."""
    words = next((words for pattern, words in config.rules if _matches(pattern, path)), '').split()
    if len(words) > len(shape):
        raise UserError(f'mesh.rules: {" ".join(words)!r} names {len(words)} axes, but {path} has shape {shape}')
    axes = ['*'] * (len(shape) - len(words)) + words
    for size, axis in zip(shape, axes, strict=True):
        if axis not in (*AXES, '*', '-'):
            raise UserError(f'mesh.rules: {axis!r} is none of {", ".join(AXES)}, * and -')
        if axis in AXES and size % mesh.shape[axis]:
            raise UserError(f'mesh.{axis}={mesh.shape[axis]} does not divide {path} of shape {shape}: see mesh.rules')
    fits = [i for i, axis in enumerate(axes) if axis == '*' and shape[i] % mesh.shape['fsdp'] == 0]
    if fits and 'fsdp' not in axes and math.prod(shape) >= config.fsdp_min_size:
        axes[max(fits, key=lambda i: shape[i])] = 'fsdp'
    return PartitionSpec(*(axis if axis in AXES else None for axis in axes))


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error as error:
        raise UserError(f'mesh.rules: {pattern!r} is not a regular expression: {error}') from error
