"""Which part of a network is its head: what has another shape when there is one more class."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.model import CLASSES
from train.objectives.objective import Variables
from train.optim import paths


def network_shapes(model: nn.Module, shape: tuple[int, ...]) -> Variables:
    """Shapes and dtypes of a network's variables, for an image `(h, w, c)` or a video `(t, h, w, c)`."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape))))


def head_parameters(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Paths of the parameters whose shape follows from the number of classes, in order.

    Args:
      model: the network.
      shape: of an image, `(h, w, c)`, or a video, `(t, h, w, c)`.
    """
    more = {name: getattr(model, name) + 1 for name in CLASSES if hasattr(model, name)}
    ours, theirs = (network_shapes(network, shape)['params'] for network in (model, model.clone(**more)))
    leaves = zip(paths(ours), jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return [path for path, leaf, other in leaves if leaf.shape != other.shape]


def head_modules(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Paths of the modules that own them, such as `mlp_head`; what the network itself owns scales logits only."""
    owners = (path.rpartition('/')[0] for path in head_parameters(model, shape))
    return [owner for owner in dict.fromkeys(owners) if owner]
