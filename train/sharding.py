"""Where everything lives: the mesh, and the rules that split parameters, optimizer state and batches over it."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.config import Mesh, Reduction
from train.errors import UserError
from train.optim import paths
from vit_flax.blocks.backend import compiling_for
from vit_flax.blocks.precision import einsum_float32, to_float32
from vit_flax.blocks.torch_like import Dense
from vit_flax.cli.text import fold
from vit_flax.taps import Call, watch

AXES = ('data', 'fsdp', 'tensor', 'seq')
ROWS = ('data', 'fsdp')
FREE = PartitionSpec.UNCONSTRAINED

# Projections to several things of one width, and how many.
FUSED = {'to_qkv': 3, 'to_kv': 2, 'to_qk': 2, 'expand_and_gate': 2}


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


def traced_for(
    mesh: jax.sharding.Mesh, function: Callable[..., Any], rows: int, reduction: Reduction = 'computation'
) -> Callable[..., Any]:
    """A function to be jitted for a mesh, whose devices need not be JAX's default ones, nor be here at all.

    Args:
      mesh: from `make_mesh`.
      function: applies modules to batches.
      rows: of a batch, or of a micro-batch, see `split_by_batch`.
      reduction: dtype in which gradients of matrices are summed, see `split_by_batch`.
    """

    @wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with compiling_for(platform_of(mesh)), split_by_batch(mesh, rows, reduction):
            return function(*args, **kwargs)

    return traced


def split_by_batch(
    mesh: jax.sharding.Mesh, rows: int, reduction: Reduction = 'computation'
) -> AbstractContextManager[None]:
    """A context in which what modules return or tap stays split over the mesh by its leading axis, the batch.

    The compiler only knows how the arguments of a program lie. Left alone, it moves activations to where the parameters
    are: under fsdp it splits the width of the tokens instead of the batch, and sums whole batches over the devices in
    every layer. A constraint on what each module returns, and with it on the gradient of that, leaves it one way:
    parameters are gathered where they are used, and their gradients scattered. All other axes are left to the compiler,
    which splits them by `tensor` and `seq` as parameters and images are.

    Under `tensor`, what a module projects to queries, keys and values at once is computed so that each of them is split
    by heads. Cut out of a product that is split in as many parts as there are devices, they would have to move.

    Args:
      mesh: from `make_mesh`.
      rows: of a batch; an array whose leading axis is no multiple of it has none.
      reduction: dtype in which devices sum their parts of the gradient of a matrix: that of the computation, as the
        compiler does, or another one.
    """
    copies, tensor = mesh.shape['data'] * mesh.shape['fsdp'], mesh.shape['tensor']

    def constrained(x: Any, *last: str | None) -> Any:
        if not isinstance(x, jax.Array) or x.ndim < 2 or not x.shape[0] or x.shape[0] % rows:
            return x
        return _constrained(x, mesh, ROWS, *[FREE] * (x.ndim - 1 - len(last)), *last)

    def projected(module: Any, parts: int, x: jax.Array) -> jax.Array:
        params = module.variables['params']
        dtype = module.promote(x, *params.values())[0].dtype
        kernel = params['kernel']
        if parts > 1:
            kernels = [_constrained(part, mesh, FREE, 'tensor') for part in jnp.split(kernel, parts, axis=1)]
            kernel = _constrained(jnp.stack(kernels, axis=1), mesh, FREE, None, 'tensor')
        else:
            kernel = kernel[:, None]
        products = product(x.astype(dtype), kernel, dtype if reduction == 'computation' else jnp.dtype(reduction))
        if 'bias' in params:
            products = products + to_float32(params['bias'].astype(dtype).reshape(parts, -1))
        products = constrained(products.astype(dtype), None, *(['tensor'] if parts > 1 else [FREE]))
        # The compiler takes them apart again where the module does.
        return jnp.concatenate([products[..., i, :] for i in range(parts)], axis=-1)

    def parts_of(call: Call) -> int:
        """Into how many products a call is taken apart; 0 if it is left as it is."""
        module = call.module
        if not isinstance(module, Dense) or call.method != '__call__' or module.is_initializing():
            return 0
        parts = FUSED.get(str(module.name), 1) if tensor > 1 else 1
        if parts > 1 and module.features % (parts * tensor) == 0:
            return parts
        return 0 if reduction == 'computation' else 1

    def before(call: Call) -> Call | None:
        parts = parts_of(call)
        return dataclasses.replace(call, function=partial(projected, call.module, parts)) if parts else None

    def after(call: Call, output: Any) -> Any:
        # Other methods may return what has no batch, such as positions; a concatenation would be moved.
        return None if call.place is None or parts_of(call) > 1 else jax.tree.map(constrained, output)

    return watch(before, after) if max(copies, tensor) > 1 and rows % copies == 0 else nullcontext()


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, reduction: jnp.dtype) -> jax.Array:
    """`[... c] [c p d] -> [... p d]` in float32 at least, of factors in the dtype of x; the gradient of the kernel is
    summed in another one."""
    return einsum_float32('... c, c p d -> ... p d', x, kernel.astype(x.dtype))


def _product_and_factors(x: jax.Array, kernel: jax.Array, reduction: jnp.dtype) -> tuple[jax.Array, Any]:
    return product(x, kernel, reduction), (x, kernel)


def _gradients_of_factors(reduction: jnp.dtype, factors: Any, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = factors
    slope = slope.astype(x.dtype)
    of_x = jnp.einsum('... p d, c p d -> ... c', slope, kernel.astype(x.dtype))
    # The devices sum what the product gives.
    of_kernel = jnp.einsum('... c, ... p d -> c p d', x, slope, preferred_element_type=reduction)
    return of_x, of_kernel.astype(kernel.dtype)


product.defvjp(_product_and_factors, _gradients_of_factors)


def _constrained(x: jax.Array, mesh: jax.sharding.Mesh, *spec: Any) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))


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
    known = {
        path: (leaf.shape, parameter_sharding(path, leaf.shape, mesh, config))
        for path, leaf in zip(paths(state.params), jax.tree.leaves(state.params), strict=True)
    }
    whole = NamedSharding(mesh, PartitionSpec())

    def place(path: str, shape: tuple[int, ...]) -> NamedSharding:
        # Adam's moments and the average have the parameter's path behind their own name.
        parts = path.split('/')
        for start in range(len(parts)):
            own = known.get('/'.join(parts[start:]))
            if own is not None and own[0] == shape:
                return own[1]
        return parameter_sharding(path, shape, mesh, config) if parts[0] == 'collections' else whole

    shardings = [place(path, leaf.shape) for path, leaf in zip(paths(state), jax.tree.leaves(state), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(state), shardings)


def given_sharding(given, mesh: jax.sharding.Mesh, config: Mesh):
    """The same for trees of variables that are no part of the state, such as a teacher's."""

    def place(path, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        return parameter_sharding(name, leaf.shape, mesh, config)

    return jax.tree.map_with_path(place, given)


def evaluation_mesh(config: Mesh) -> tuple[jax.sharding.Mesh, Mesh]:
    """A mesh over the devices that are here for what was trained on another, and its config.

    The same if it fits; otherwise one that splits parameters over all devices if `fsdp`, `tensor` or `seq` did.
    """
    whole, split = Mesh(), Mesh(fsdp=jax.device_count(), rules=config.rules, fsdp_min_size=config.fsdp_min_size)
    splits = max(config.fsdp, config.tensor, config.seq) > 1
    for found in (config, dataclasses.replace(config, data=0)) if splits else ():
        try:
            return make_mesh(found), found
        except UserError:  # other devices than those of training
            continue
    found = split if splits else whole
    return make_mesh(found), found


# Bytes of an array that are gathered at a time.
PIECE = 2**28


def onto_this_host(tree, mesh: jax.sharding.Mesh, config: Mesh):
    """A tree of arrays on devices of this host alone, so that it can compute with them by itself.

    They are split over these devices by the rules. With one host they stay where they are.
    """
    if len({device.process_index for device in mesh.devices.flat}) == 1:
        return tree
    arrays, local = in_memory(tree, mesh), jax.local_devices()
    here = dataclasses.replace(config, data=1, fsdp=len(local), tensor=1, seq=1)
    return jax.device_put(arrays, given_sharding(arrays, make_mesh(here, local), here))


def in_memory(tree, mesh: jax.sharding.Mesh):
    """A tree of arrays as numpy's, in the memory of every host; gathered in pieces, so that none is ever whole on a
    device."""
    whole = NamedSharding(mesh, PartitionSpec())
    cut = jax.jit(jax.lax.dynamic_slice_in_dim, static_argnums=2, out_shardings=whole)

    def copied(x: jax.Array) -> np.ndarray:
        if x.is_fully_replicated:
            return jax.device_get(x)
        step = max(1, PIECE * x.shape[0] // x.nbytes)
        starts = range(0, x.shape[0], step)
        return np.concatenate([jax.device_get(cut(x, start, min(step, x.shape[0] - start))) for start in starts])

    return jax.tree.map(copied, tree)


def abstract(tree):
    """Shapes, dtypes and shardings of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def parameter_sharding(path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh, config: Mesh) -> NamedSharding:
    """The first rule that matches; then `fsdp` on an axis that the rule leaves free.

    That is the axis of inputs, the last but one, or else the largest one that `mesh.fsdp` divides. Where none does, the
    axes are split by factors of it, over a finer mesh of the same devices. Stacked layers stay together, since a scan
    takes them one at a time.

    Raises:
      UserError: the rule is wrong.
    """
    return _placed(path, shape, mesh, config)[0]


def fallbacks(params, mesh: jax.sharding.Mesh, config: Mesh) -> list[str]:
    """A line for each kind of parameter that cannot be split as `mesh` asks, and how it is split instead."""
    leaves = zip(paths(params), jax.tree.leaves(params), strict=True)
    found = {path: _placed(path, leaf.shape, mesh, config)[1] for path, leaf in leaves}
    return [f'{entry.name} {entry.value}' for entry in fold({path: text for path, text in found.items() if text})]


def _placed(path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh, config: Mesh) -> tuple[NamedSharding, str]:
    """The sharding of a parameter, and in words what does not divide; '' if all does."""
    words = next((words for pattern, words in config.rules if _matches(pattern, path)), '').split()
    if len(words) > len(shape):
        raise UserError(f'mesh.rules: {" ".join(words)!r} names {len(words)} axes, but {path} has shape {shape}')
    axes = ['*'] * (len(shape) - len(words)) + words
    remarks = []
    for i, axis in enumerate(axes):
        if axis not in (*AXES, '*', '-'):
            raise UserError(f'mesh.rules: {axis!r} is none of {", ".join(AXES)}, * and -')
        if axis in AXES and shape[i] % mesh.shape[axis]:
            remarks.append(f'mesh.{axis}={mesh.shape[axis]} does not divide axis {i}, which is left to mesh.fsdp')
        if axis in AXES and (mesh.shape[axis] == 1 or shape[i] % mesh.shape[axis]):
            axes[i] = '*'
    layers, fsdp = path.split('/').count('block'), mesh.shape['fsdp']
    free = [i for i in range(layers, len(shape)) if axes[i] == '*']
    parts: dict[int, int] = {}
    if fsdp > 1 and 'fsdp' not in axes and math.prod(shape[layers:]) >= config.fsdp_min_size:
        parts = _parts({i: shape[i] for i in free}, fsdp)
        if free and [*parts.values()] != [fsdp]:
            over = ' and '.join(f'axis {i} over {part}' for i, part in parts.items()) or 'no axis'
            copies = fsdp // math.prod(parts.values())
            of_each = f', {copies} copies of each part' if parts and copies > 1 else ''
            remarks.append(f'mesh.fsdp={fsdp} divides no free axis: it splits {over}{of_each}')
    remark = f'{"x".join(map(str, shape))}: {"; ".join(remarks)}' if remarks else ''
    finer, names = _finer(mesh, tuple(parts.values()))
    split = {**{i: axis for i, axis in enumerate(axes) if axis in AXES}, **dict(zip(parts, names, strict=True))}
    return NamedSharding(finer, PartitionSpec(*map(split.get, range(len(shape))))), remark


def _parts(sizes: Mapping[int, int], ways: int) -> dict[int, int]:
    """Axis -> into how many equal parts it is split, so that all together are as many of `ways` as sizes allow.

    Args:
      sizes: of each axis.
      ways: how many parts are wanted.
    """
    last_but_one = sorted(sizes)[-2:][0] if sizes else None
    # A kernel's gradient is made of inputs and outputs: split by inputs, the last axis but one, none of them moves.
    order = sorted(sizes, key=lambda i: (math.gcd(sizes[i], ways), i == last_but_one, sizes[i]), reverse=True)
    parts = {}
    for i in order:
        part = math.gcd(sizes[i], ways)
        ways //= part
        if part > 1:
            parts[i] = part
    return parts


def _finer(mesh: jax.sharding.Mesh, parts: tuple[int, ...]) -> tuple[jax.sharding.Mesh, tuple[str, ...]]:
    """A mesh of the same devices in the same order with `fsdp` cut into factors, and the names of these."""
    if parts in ((), (mesh.shape['fsdp'],)):
        return mesh, ('fsdp',) * len(parts)
    names = tuple(f'fsdp_{part}{letter}' for part, letter in zip(parts, 'abcdefgh', strict=False))
    sizes = {**dict(zip(names, parts, strict=True)), 'fsdp_copies': mesh.shape['fsdp'] // math.prod(parts)}
    shape: dict[str, int] = {}
    for axis, size in mesh.shape.items():
        shape |= sizes if axis == 'fsdp' else {axis: size}
    devices = mesh.devices.reshape(*shape.values())
    return jax.sharding.Mesh(devices, tuple(shape), axis_types=(AxisType.Auto,) * len(shape)), names


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error as error:
        raise UserError(f'mesh.rules: {pattern!r} is not a regular expression: {error}') from error
