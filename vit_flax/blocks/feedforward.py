"""The two feed-forward networks that most models share."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm, gelu


class FeedForward(Module):
    """LayerNorm, Linear, GELU, Dropout, Linear, Dropout on the last axis, `[... d] -> [... d]`.

    Attributes:
      hidden_dim: width between the two linear maps.
      norm: constructor of the norm; takes a name.
    """

    hidden_dim: int
    dropout: float = 0.0
    norm: Callable[..., Any] = LayerNorm

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = self.norm(**self.precision, name='norm')(x)
        x = gelu(Dense(self.hidden_dim, **self.precision, name='expand')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        x = Dense(dim, **self.precision, name='contract')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'norm': 'net.0', 'expand': 'net.1', 'contract': 'net.4'}


class SimpleFeedForward(FeedForward):
    """The same in the SimpleViT family, whose PyTorch twin has no dropout layers to count."""

    torch_names = {**FeedForward.torch_names, 'contract': 'net.3'}


class BareFeedForward(FeedForward):
    """The same where PyTorch's twin is the sequence itself, without a module around it."""

    torch_names = {'norm': '0', 'expand': '1', 'contract': '3'}
