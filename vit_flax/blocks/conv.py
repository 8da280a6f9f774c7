"""Parts of convolutional models, on `[b h w c]`."""

from flax import linen as nn
from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm, gelu
from vit_flax.weights.ops import POINTWISE, UnitAxes


class ChannelLayerNorm(LayerNorm):
    """LayerNorm over the channels of a feature map; in channels-last layout just that."""

    torch_names = {'scale': ('g', UnitAxes((0, 2, 3))), 'bias': ('b', UnitAxes((0, 2, 3)))}


class PointwiseConv(Dense):
    """1x1 convolution: a matrix product on the channels."""

    torch_names = {'kernel': ('weight', POINTWISE)}


class ConvFeedForward(Module):
    """LayerNorm, 1x1 convolution, GELU, Dropout, 1x1 convolution, Dropout, `[b h w d] -> [b h w d]`."""

    mult: int = 4
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = ChannelLayerNorm(**self.precision, name='norm')(x)
        x = gelu(PointwiseConv(dim * self.mult, **self.precision, name='expand')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        x = PointwiseConv(dim, **self.precision, name='contract')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'norm': 'net.0', 'expand': 'net.1', 'contract': 'net.4'}
