"""Parts of convolutional models, on `[b h w c]`."""

from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import add
from vit_flax.blocks.torch_like import Conv, LayerNorm, PointwiseConv, gelu, uniform_by_fan_in
from vit_flax.blocks.weight_ops import UnitAxes


class ChannelLayerNorm(LayerNorm):
    """LayerNorm over the channels of a feature map; in channels-last layout just that."""

    torch_names = {'scale': ('g', UnitAxes((0, 2, 3))), 'bias': ('b', UnitAxes((0, 2, 3)))}


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


class PEG(Module):
    """Position encoding generator (arXiv:2102.10882): a residual depthwise convolution, `[b h w d] -> [b h w d]`."""

    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size, dim = self.kernel_size, x.shape[-1]
        if size % 2 == 0:
            raise ValueError(f'a position encoding generator with kernel_size={size} must have an odd one')
        return x + Conv(dim, (size, size), padding=size // 2, groups=dim, **self.precision, name='conv')(x)

    torch_names = {'conv': 'proj'}


class PatchConv(Module):
    """Convolution whose stride is its kernel, without padding: patches and a matrix product.

    What does not fill a whole patch at the lower and right end is left out, `[b h w c] -> [b h/p w/p features]`.
    """

    features: int
    patch_size: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        p, (b, height, width, channels) = self.patch_size, x.shape
        init = uniform_by_fan_in(p * p * channels)
        parameters = [self.param('kernel', init, (p, p, channels, self.features), self.param_dtype)]
        if self.use_bias:
            parameters.append(self.param('bias', init, (self.features,), self.param_dtype))
        x, kernel, *bias = self.promote(x, *parameters)
        h, w = height // p, width // p
        x = rearrange(x[:, : h * p, : w * p], 'b (h p) (w q) c -> (b h w) (p q c)', p=p, q=p)
        x = (x @ kernel.reshape(-1, self.features)).reshape(b, h, w, self.features)
        return add(x, bias[0]) if bias else x
