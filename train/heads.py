"""The head of a network: the modules and parameters whose shapes depend on the number of classes."""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from train.objectives.objective import Variables
from vit_flax.blocks.backbone import Backbone


def network_shapes(model: Backbone, shape: tuple[int, ...]) -> Variables:
    """Shapes and dtypes of a network's variables, for an image `(h, w, c)` or a video `(t, h, w, c)`."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape))))


def head_parameters(model: Backbone, shape: tuple[int, ...]) -> list[str]:
    """Paths of the parameters of the head, in order.

    Args:
      model: the network.
      shape: of an image, `(h, w, c)`, or a video, `(t, h, w, c)`.
    """
    paths = flatten_dict(network_shapes(model, shape)['params'], sep='/')
    return [path for path in paths if any(f'{path}/'.startswith(f'{part}/') for part in model.head)]


def head_modules(model: Backbone, shape: tuple[int, ...]) -> list[str]:
    """Paths of the modules of the head, such as `mlp_head`; a parameter of the network itself only scales logits."""
    parameters = head_parameters(model, shape)
    return [part for part in model.head if any(path.startswith(f'{part}/') for path in parameters)]
