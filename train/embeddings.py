"""Features: what the head of a network takes as its input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from train.errors import UserError
from train.heads import head_modules, network_shapes
from train.objectives.objective import Variables
from vit_flax.blocks.backbone import Backbone
from vit_flax.taps import capture


def embedder(model: Backbone, shape: tuple[int, ...], layer: str = '') -> Callable[[Variables, Array], Array]:
    """A function of the network's variables and scaled images `[b ...]` that gives embeddings, float32 `[b ...]`.

    Args:
      model: the network.
      shape: of an image, `(h, w, c)`, or a video, `(t, h, w, c)`.
      layer: whose output is taken; '' takes the input of the head, joined if there are several, and averaged over
        all axes but the first and the last.

    Raises:
      UserError: the network has no such place, or what is there has no axis of images.
    """
    names = [layer] if layer else head_modules(model, shape)
    if not names:
        raise UserError(f'model {type(model).__name__!r} has no head: choose a --layer')

    def take(variables: Variables, images: Array) -> list[Array]:
        _, found = capture(model, variables, images, names=names, inputs=not layer, argument='layer')
        return [found[name] if layer else found[name][0] for name in names]

    def shapes(rows: int) -> list[jax.ShapeDtypeStruct]:
        images = jax.ShapeDtypeStruct((rows, *shape), jnp.float32)
        return jax.eval_shape(take, network_shapes(model, shape), images)

    try:
        axes = list(map(_image_axis, shapes(2), shapes(3)))
    except (ValueError, AttributeError, TypeError) as error:
        reason = str(error).removeprefix('layer=')
        raise UserError(f'--layer {reason}' if layer else f'the head has no plain input: {reason}') from error

    def embed(variables: Variables, images: Array) -> Array:
        arrays = [
            jnp.moveaxis(array, axis, 0).astype(jnp.float32)
            for array, axis in zip(take(variables, images), axes, strict=True)
        ]
        if layer:
            return arrays[0]
        return jnp.concatenate([array.reshape(len(array), -1, array.shape[-1]).mean(1) for array in arrays], axis=-1)

    return embed


def _image_axis(two: jax.ShapeDtypeStruct, three: jax.ShapeDtypeStruct) -> int:
    """The axis that runs over the images, seen from what two and what three of them give."""
    axes = [i for i, sizes in enumerate(zip(two.shape, three.shape, strict=True)) if sizes == (2, 3)]
    if len(axes) != 1 or two.ndim < 2:
        raise ValueError(f'what is there has shape {two.shape} for two images: no axis of images beside the values')
    return axes[0]
