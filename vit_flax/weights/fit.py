"""Weights of a network fitted to one of another image size, patch size, number of channels or of classes."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.module import example_inputs
from vit_flax.blocks.position_tables import position_tables
from vit_flax.blocks.positions import Resampling, resampling_matrix

PATCH_KERNEL = Resampling(antialias=True)


def fit(
    variables: Mapping[str, Any], old: Backbone, new: Backbone, resampling: Resampling, key: Array
) -> dict[str, Any]:
    """The variables of `old` as variables of `new`.

    Position tables are resampled between the two grids; the kernel that reads the image is resized to other patches
    (`resize_kernel`) and folded or repeated for other channels (`fold_channels`); a head for another number of classes
    is drawn anew. Everything else must have the same shape.

    Args:
      variables: of `old`, whose layers are stacked as those of `new` are.
      old, new: the two networks.
      resampling: of position tables.
      key: for the parameters that are drawn.

    Raises:
      ValueError: one report of all variables that are missing, left over, or of another shape.
    """
    inputs = example_inputs(new)
    before, after = position_tables(old), position_tables(new)
    leaves = flatten_dict(dict(variables), sep='/')
    wanted = flatten_dict(jax.eval_shape(new.init, key, *inputs), sep='/')
    heads = {f'params/{path}' for path in (*old.head, *new.head)}
    kernel = f'params/{new.input_kernel}' if new.input_kernel else None
    found, drawn, wrong = {}, [], []
    for path, here in wanted.items():
        name = path.removeprefix('params/')
        value = leaves.get(path)
        if value is not None and name in before and name in after:
            value = before[name].move(value, after[name], resampling)
        elif value is not None and path == kernel and np.shape(value)[-1] == here.shape[-1]:
            value = fold_channels(resize_kernel(value, here.shape[:2]), here.shape[2])
        if value is not None and np.shape(value) == here.shape:
            found[path] = value
        elif _below(path, heads):
            drawn.append(path)
        else:
            got = 'missing' if value is None else f'{np.shape(value)} in the checkpoint'
            wrong.append(f'{path}: {got}, {here.shape} in the network')
    wrong += [f'{path}: unexpected' for path in leaves.keys() - wanted.keys() if not _below(path, heads)]
    if wrong:
        raise ValueError('the weights do not fit the network with these arguments:\n  ' + '\n  '.join(sorted(wrong)))
    if drawn:
        # Compiled, what is not asked for is not drawn.
        new_leaves = jax.jit(partial(_draw, new, drawn, inputs))(key)
        dtypes = {leaf.dtype for path, leaf in found.items() if path.startswith('params/')}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        found |= {path: leaf.astype(dtype) for path, leaf in new_leaves.items()}
    return unflatten_dict(found, sep='/')


def resize_kernel(kernel: Any, patch: tuple[int, ...]) -> Any:
    """A patch projection for patches of another size, `[h w c d] -> [h' w' c d]`, FlexiViT (arXiv:2212.08013).

    The pseudo-inverse of bicubic resizing: the product with an enlarged patch is that with the patch before.
    """
    if np.shape(kernel)[:2] == tuple(patch):
        return kernel
    rows, columns = (
        resampling_matrix(old, new, PATCH_KERNEL) for old, new in zip(np.shape(kernel)[:2], patch, strict=True)
    )
    # The pseudo-inverse of a Kronecker product is that of its factors.
    inverses = (np.linalg.pinv(matrix.T).astype(kernel.dtype) for matrix in (rows, columns))
    return jnp.einsum('Hh, Ww, hwcd -> HWcd', *inverses, jnp.asarray(kernel), precision=jax.lax.Precision.HIGHEST)


def fold_channels(kernel: Any, channels: int) -> Any:
    """A first kernel for images of another number of channels, `[h w c d] -> [h w c' d]`.

    For one channel the kernels of all are added; for others they are repeated in turn, and scaled so that a constant
    image gives what it gave.
    """
    old = np.shape(kernel)[2]
    if channels == old:
        return kernel
    kernel = jnp.asarray(kernel)
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = jnp.tile(kernel, (1, 1, math.ceil(channels / old), 1))[:, :, :channels]
    return repeated * (old / channels)


def _below(path: str, parents: set[str]) -> bool:
    return any(path == parent or path.startswith(f'{parent}/') for parent in parents)


def _draw(model: Backbone, paths: list[str], inputs: tuple[Any, ...], key: Array) -> dict[str, Array]:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs)
    leaves = flatten_dict(model.init(key, *zeros), sep='/')
    return {path: leaves[path] for path in paths}
