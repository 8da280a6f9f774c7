"""Which part of a network is its head: what has another shape when there is one more class."""

import jax
from flax import linen as nn

from train.config import Config
from train.model import CLASSES
from train.optim import paths
from train.run import variable_shapes


def head_parameters(config: Config, model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Paths of the parameters whose shape follows from the number of classes, in order.

    Args:
      config: of the run.
      model: its network.
      shape: of an image, `(h, w, c)`, or a video, `(t, h, w, c)`.
    """
    more = {name: getattr(model, name) + 1 for name in CLASSES if hasattr(model, name)}
    ours, theirs = (variable_shapes(config, network, shape)['params'] for network in (model, model.clone(**more)))
    leaves = zip(paths(ours), jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return [path for path, leaf, other in leaves if leaf.shape != other.shape]


def head_modules(config: Config, model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Paths of the modules that own them, such as `mlp_head`; what the network itself owns scales logits only."""
    owners = (path.rpartition('/')[0] for path in head_parameters(config, model, shape))
    return [owner for owner in dict.fromkeys(owners) if owner]
