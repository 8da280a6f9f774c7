"""MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer, arXiv:2110.02178.

vit-pytorch's `mobile_vit`: MobileNetV2 whose last three stages each hold a transformer between
convolutions. A token attends to those at the same position of their patches; positions near each other
speak through the convolutions, so that there are no positions and no class token.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images, pair, patch_grid
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import BatchNorm, Conv, Dense, LayerNorm, PointwiseConv, silu
from vit_flax.blocks.transformer import Block, Remat, Transformer
from vit_flax.blocks.windows import check_windows, from_grids, to_grids
from vit_flax.card import ModelCard


class ConvNorm(Module):
    """Convolution without bias, BatchNorm, SiLU."""

    features: int
    kernel_size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if self.kernel_size == 1:
            x = PointwiseConv(self.features, use_bias=False, **self.precision, name='conv')(x)
        else:
            x = Conv(
                self.features,
                (self.kernel_size, self.kernel_size),
                strides=self.stride,
                padding=self.kernel_size // 2,
                use_bias=False,
                **self.precision,
                name='conv',
            )(x)
        return silu(BatchNorm(**self.precision, name='norm')(x, train))

    torch_names = {'conv': '0', 'norm': '1'}


class MV2Block(Module):
    """MobileNetV2's inverted bottleneck, `[b h w c] -> [b h' w' features]`."""

    features: int
    stride: int = 1
    expansion: float = 4

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        return self.residual(self.narrow(self.expand(x, int(dim * self.expansion), train), train), x)

    def expand(self, x: Array, hidden: int, train: bool) -> Array:
        """1x1 convolution, BatchNorm, SiLU."""
        x = PointwiseConv(hidden, use_bias=False, **self.precision, name='expand')(x)
        return silu(BatchNorm(**self.precision, name='expand_norm')(x, train))

    def narrow(self, x: Array, train: bool) -> Array:
        """Depthwise convolution, BatchNorm, SiLU, 1x1 convolution, BatchNorm."""
        x = Conv(
            x.shape[-1],
            (3, 3),
            strides=self.stride,
            padding=1,
            groups=x.shape[-1],
            use_bias=False,
            **self.precision,
            name='depthwise',
        )(x)
        x = silu(BatchNorm(**self.precision, name='depthwise_norm')(x, train))
        x = PointwiseConv(self.features, use_bias=False, **self.precision, name='contract')(x)
        return BatchNorm(**self.precision, name='norm')(x, train)

    def residual(self, x: Array, before: Array) -> Array:
        """Added where the shape is kept."""
        return x + before if x.shape == before.shape and self.stride == 1 else x

    torch_names = {
        'expand': 'conv.0',
        'expand_norm': 'conv.1',
        'depthwise': 'conv.3',
        'depthwise_norm': 'conv.4',
        'contract': 'conv.6',
        'norm': 'conv.7',
    }


class UnexpandedMV2Block(MV2Block):
    """The same at an expansion of 1, which needs no first convolution."""

    def expand(self, x: Array, hidden: int, train: bool) -> Array:
        return x

    torch_names = {'depthwise': 'conv.0', 'depthwise_norm': 'conv.1', 'contract': 'conv.3', 'norm': 'conv.4'}


class FeedForward(Module):
    """LayerNorm, Linear, SiLU, Linear, `[b n d] -> [b n d]`."""

    hidden_dim: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = LayerNorm(**self.precision, name='norm')(x)
        x = silu(Dense(self.hidden_dim, **self.precision, name='expand')(x))
        return Dense(dim, **self.precision, name='contract')(x)

    torch_names = {'norm': 'net.0', 'expand': 'net.1', 'contract': 'net.4'}


class MobileViTBlock(Module):
    """Convolutions, a transformer across patches, convolutions, `[b h w c] -> [b h w c]`."""

    dim: int
    depth: int
    kernel_size: int
    patch_size: tuple[int, int]
    mlp_dim: int
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        before, channels = x, x.shape[-1]
        rows, columns = check_windows(x, self.patch_size, 'patch_size')
        x = ConvNorm(channels, self.kernel_size, **self.precision, name='local_conv')(x, train)
        x = ConvNorm(self.dim, **self.precision, name='to_tokens')(x, train)
        x = to_grids(x, (rows, columns))
        # upstream: heads are 4 and 8 wide whatever dims are, and there is no dropout to set.
        x = Transformer(
            self.depth,
            partial(
                Block,
                attention=partial(Attention, heads=4, dim_head=8, **self.precision),
                feedforward=partial(FeedForward, self.mlp_dim, **self.precision),
            ),
            scan=self.scan,
            remat=self.remat,
            name='transformer',
        )(x, train=train)
        x = from_grids(x, (rows, columns), self.patch_size)
        x = ConvNorm(channels, **self.precision, name='from_tokens')(x, train)
        x = jnp.concatenate([x, before.astype(x.dtype)], axis=-1)
        return self.tap('block', ConvNorm(channels, self.kernel_size, **self.precision, name='fusion')(x, train))

    torch_names = {'local_conv': 'conv1', 'to_tokens': 'conv2', 'from_tokens': 'conv3', 'fusion': 'conv4'}


class MobileViT(Backbone, kw_only=True):
    """MobileViT (arXiv:2110.02178): images `[b h w c]` to logits `[b num_classes]`.

    Any height and width will do that are multiples of 32 patches.

    Attributes:
      image_size: height and width in pixels, or one number for both; only checked against `patch_size`.
      dims: widths of the three transformers.
      channels: eleven widths of the convolutions: stem, its four blocks, for each transformer that of the block before
        it and its own, and the head's. Those that follow each other without a change must be equal:
        the third and fourth, fifth and sixth, seventh and eighth, ninth and tenth.
      num_classes: width of the logits.
      expansion: hidden width of the inverted bottlenecks over their input.
      kernel_size: of the convolutions around the transformers; odd.
      patch_size: height and width of a patch; must divide each transformer's map.
      depths: blocks of the three transformers.
      in_channels: of the images.
      scan: compile one block for all layers of a transformer, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: not three dims and depths or eleven channels, channels that do not follow each other, an even kernel,
        patches that do not tile a map, images of another layout.
    """

    image_size: int | Sequence[int]
    dims: Sequence[int]
    channels: Sequence[int]
    num_classes: int
    expansion: float = 4
    kernel_size: int = 3
    patch_size: int | Sequence[int] = (2, 2)
    depths: Sequence[int] = (2, 4, 3)
    in_channels: int = 3
    scan: bool = False
    remat: Remat = False

    head = ('to_logits',)

    def setup(self) -> None:
        patch_grid(self.image_size, self.patch_size)
        channels = self.channels
        for name, length in (('dims', 3), ('depths', 3), ('channels', 11)):
            if len(getattr(self, name)) != length:
                raise ValueError(f'{name}={tuple(getattr(self, name))} must be {length} numbers')
        for first in (2, 4, 6, 8):
            if channels[first] != channels[first + 1]:
                raise ValueError(
                    f'channels={tuple(channels)}: numbers {first + 1} and {first + 2} must be equal, no layer stands '
                    'between them'
                )
        # upstream: every padding is 1, so that a kernel_size other than 3 crashes; here it is half the kernel.
        if self.kernel_size % 2 == 0:
            raise ValueError(f'kernel_size={self.kernel_size} must be odd, to be centred on a pixel')
        bottleneck = UnexpandedMV2Block if self.expansion == 1 else MV2Block

        def block(width, stride=1):
            return bottleneck(channels[width], stride, self.expansion, **self.precision)

        self.input_conv = ConvNorm(channels[0], 3, 2, **self.precision)
        self.stem = [block(1), block(2, 2), block(3), block(3)]
        self.shrink = [block(width, 2) for width in (4, 6, 8)]
        self.trunk = [
            MobileViTBlock(
                dim,
                depth,
                self.kernel_size,
                pair(self.patch_size, 'patch_size'),
                dim * mult,
                scan=self.scan,
                remat=self.remat,
                **self.precision,
            )
            for dim, depth, mult in zip(self.dims, self.depths, (2, 4, 4), strict=True)
        ]
        self.head_conv = ConvNorm(channels[-1], **self.precision)
        self.to_logits = Dense(self.num_classes, use_bias=False, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """The stem, `[b h w c] -> [b h/4 w/4 d]`."""
        check_images(images, self.in_channels)
        x = self.input_conv(images, train)
        for block in self.stem:
            x = block(x, train)
        return self.tap('embedding', x)

    def encode(self, x: Array, train: bool = False) -> Array:
        """The three stages with transformers, `[b h w d] -> [b h/8 w/8 d']`."""
        for shrink, block in zip(self.shrink, self.trunk, strict=True):
            x = block(shrink(x, train), train)
        return x

    def classify(self, x: Array, train: bool = False) -> Array:
        """Feature map to logits, `[b h w d] -> [b num_classes]`."""
        return self.to_logits(self.head_conv(self.tap('to_latent', x), train).mean(axis=(1, 2)))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded feature map without classes."""
        x = self.encode(self.embed(images, train), train)
        return self.classify(x, train) if self.num_classes > 0 else x

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        # attention is among pixels of the same offset in their patches
        maps = (grid.shape for grid in stage_grids(lengths, (8, 2, 2)))
        p, q = pair(self.patch_size, 'patch_size')
        return tuple(TokenGrid((rows // p, columns // q)) for rows, columns in maps)

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.image_size, 'image_size'), self.in_channels), jnp.float32)

    torch_names = {
        'input_conv': 'conv1',
        'stem_{i}': 'stem.{i}',
        'shrink_{i}': 'trunk.{i}.0',
        'trunk_{i}': 'trunk.{i}.1',
        'head_conv': 'to_logits.0',
        'to_logits': 'to_logits.2',
    }


def published_size(dims: tuple[int, ...], channels: tuple[int, ...], expansion: int = 4) -> dict:
    """Keyword arguments of the paper's sizes."""
    return dict(image_size=256, dims=dims, channels=channels, num_classes=1000, expansion=expansion)


XXS = published_size((64, 80, 96), (16, 16, 24, 24, 48, 48, 64, 64, 80, 80, 320), expansion=2)
XS = published_size((96, 120, 144), (16, 32, 48, 48, 64, 64, 80, 80, 96, 96, 384))
S = published_size((144, 192, 240), (16, 32, 64, 64, 96, 96, 128, 128, 160, 160, 640))

CARD = ModelCard(
    MobileViT,
    title='MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer',
    arxiv='2110.02178',
    takes='image [b h w c]',
    paper_size={**XS, 'image_size': (256, 256)},
    presets={'mobile_vit_xxs': XXS, 'mobile_vit_xs': XS, 'mobile_vit_s': S},
)
