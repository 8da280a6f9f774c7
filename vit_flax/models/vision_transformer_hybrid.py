"""An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, arXiv:2010.11929, its hybrids.

timm's `vision_transformer_hybrid`: the patches are those of the feature map of a convolutional network, a ResNet whose
kernels are standardised (arXiv:1903.10520), as in BiT (arXiv:1912.11370), and whose norms are over groups of channels.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.nn.initializers import Initializer, normal, ones, zeros

from vit_flax.blocks.checks import pair
from vit_flax.blocks.grids import Grid, TokenGrid
from vit_flax.blocks.kernels.pooling import max_pool
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.torch_like import uniform_by_fan_in
from vit_flax.card import ModelCard
from vit_flax.models.vision_transformer import PatchEmbed, VisionTransformer
from vit_flax.weights.timm import sizes


class StandardisedConv(Module):
    """Convolution whose kernel has mean 0 and variance 1 for an output, `[b h w c] -> [b h/stride w/stride features]`.

    Without bias; zeros around the image as in TensorFlow, the odd one on the right and below.
    """

    features: int
    kernel_size: int
    stride: int = 1
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = self.kernel_size
        # for ReLU, by the number of values that each input goes to
        init = self.kernel_init or normal(math.sqrt(2 / (size * size * self.features)))
        kernel = self.param('kernel', init, (size, size, x.shape[-1], self.features), self.param_dtype)
        wide = to_float32(kernel)
        centred = wide - wide.mean(axis=(0, 1, 2))
        standard = centred * lax.rsqrt(jnp.square(centred).mean(axis=(0, 1, 2)) + 1e-8)
        x, standard = self.promote(x, self.cast(standard, x, kernel))
        return lax.conv_general_dilated(
            x, standard, (self.stride, self.stride), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )


class GroupNorm(Module):
    """Normalises groups of channels of an image (arXiv:1803.08494), `[b h w c] -> [b h w c]`."""

    groups: int
    scale_init: Initializer = ones

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param('scale', self.scale_init, x.shape[-1:], self.param_dtype)
        bias = self.param('bias', zeros, x.shape[-1:], self.param_dtype)
        b, h, w, c = x.shape
        wide = to_float32(x).reshape(b, h, w, self.groups, c // self.groups)
        centred = wide - wide.mean(axis=(1, 2, 4), keepdims=True)
        normed = centred * lax.rsqrt(jnp.square(centred).mean(axis=(1, 2, 4), keepdims=True) + 1e-5)
        return self.cast(normed.reshape(b, h, w, c) * to_float32(scale) + to_float32(bias), x, scale, bias)


class Stem(Module):
    """7x7 convolution of stride 2, GroupNorm, ReLU, largest of 3x3 of stride 2, `[b H W c] -> [b H/4 W/4 width]`."""

    width: int
    groups: int
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = StandardisedConv(self.width, 7, 2, self.kernel_init, **self.precision, name='conv')(x)
        x = jax.nn.relu(GroupNorm(self.groups, **self.precision, name='norm')(x))
        short = [max(3 - (2 - length % 2), 0) for length in x.shape[1:3]]
        sides = [(side // 2, side - side // 2, 0) for side in short]
        x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), *sides, (0, 0, 0)))
        return max_pool(x, (3, 3), (2, 2), (0, 0))


class Bottleneck(Module):
    """1x1, 3x3 with the stride and 1x1 convolution around a shortcut, `[b h w c] -> [b h/stride w/stride width]`.

    Attributes:
      projects: a convolution and a norm on the shortcut.
    """

    width: int
    groups: int
    stride: int
    projects: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv: Callable[..., nn.Module] = partial(StandardisedConv, **self.precision)
        norm: Callable[..., nn.Module] = partial(GroupNorm, self.groups, **self.precision)
        inner = self.width // 4
        y = jax.nn.relu(norm(name='norm_1')(conv(inner, 1, name='conv_1')(x)))
        y = jax.nn.relu(norm(name='norm_2')(conv(inner, 3, self.stride, name='conv_2')(y)))
        # the block begins as its shortcut
        y = norm(scale_init=zeros, name='norm_3')(conv(self.width, 1, name='conv_3')(y))
        if self.projects:
            x = norm(name='shortcut_norm')(conv(self.width, 1, self.stride, name='shortcut')(x))
        return jax.nn.relu(x + y)

    torch_names = {
        'conv_{i}': 'conv{i}',
        'norm_{i}': 'norm{i}',
        'shortcut': 'downsample.conv',
        'shortcut_norm': 'downsample.norm',
    }


class ResNetV2(Module):
    """Stem and stages of bottlenecks, which halve the map but for the first, `[b H W c] -> [b h w widths[-1]]`."""

    layers: Sequence[int]
    widths: Sequence[int]
    stem_chs: int
    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel_init = normal(math.sqrt(2 / (7 * 7 * self.stem_chs)))
        x = Stem(self.stem_chs, self.groups, kernel_init, **self.precision, name='stem')(x)
        for stage, (depth, width) in enumerate(zip(self.layers, self.widths, strict=False)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f'stage_{stage}_layer_{i}'
                x = Bottleneck(width, self.groups, stride, projects=i == 0, **self.precision, name=name)(x)
        return x

    torch_names = {'stage_{i}_layer_{j}': 'stages.{i}.blocks.{j}'}


class HybridEmbed(Module):
    """A convolutional network, then a linear map of each patch of its feature map, `[b H W c] -> [b h w d]`.

    Attributes:
      backbone, projection: constructors.
      padded: lengths that the feature map is filled up to multiples of, with zeros.
    """

    backbone: Callable[..., nn.Module]
    projection: Callable[..., nn.Module]
    padded: Sequence[int]

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = self.backbone(name='backbone')(images)
        short = [-length % patch for length, patch in zip(x.shape[1:3], self.padded, strict=True)]
        x = jnp.pad(x, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)))
        return self.projection(name='projection')(x)

    torch_names = {'projection': ''}


class HybridVisionTransformer(VisionTransformer, kw_only=True):
    """Vision Transformer on a ResNet's features (arXiv:2010.11929): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      patch_size: height and width of a patch of the feature map, or one number for both.
      layers: bottlenecks in each stage of the ResNet, whose feature map has 1/4 of the resolution in the first stage,
        half of the one before in each other; none is the stem alone.
      widths: channels of its stages, multiples of 32.
      stem_chs: channels of its stem, a multiple of 8.
      num_groups: groups of channels that each of its norms is over.

    Raises:
      ValueError: images of another size, heads do not divide the width, pooling, tokens and heads do not go together,
        or groups do not divide channels.
    """

    patch_size: int | Sequence[int] = 1
    layers: Sequence[int] = (3, 4, 9)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    stem_chs: int = 64
    num_groups: int = 32

    can_embed_patches = False
    can_drop_tokens = False

    @property
    def input_kernel(self) -> str:
        return 'patch_embed/backbone/' + ('stem/conv/kernel' if self.layers else 'conv/kernel')

    def _check(self) -> None:
        super()._check()
        if len(self.layers) > len(self.widths):
            raise ValueError(f'layers={self.layers} needs as many widths, not widths={self.widths}')
        if self.stem_chs % 8:
            raise ValueError(f'stem_chs={self.stem_chs} must be a multiple of 8')
        if self.stem_chs % self.num_groups:
            raise ValueError(f'num_groups={self.num_groups} must divide stem_chs={self.stem_chs}')
        if any(width % 32 or width // 4 % self.num_groups for width in self.widths[: len(self.layers)]):
            raise ValueError(
                f'widths={self.widths} must be multiples of 32, and a quarter of each of num_groups={self.num_groups}'
            )
        if not all(self.layers):
            raise ValueError(f'layers={self.layers} must be at least 1 each')
        if not self.dynamic_img_pad:
            self.check_patches(pair(self.img_size, 'img_size'))

    def make_patch_embed(self, norm: Callable[..., nn.Module]) -> nn.Module:
        backbone: Callable[..., nn.Module]
        if self.layers:
            backbone = partial(ResNetV2, self.layers, self.widths, self.stem_chs, self.num_groups, **self.precision)
        else:
            backbone = partial(
                Stem, self.stem_chs, self.num_groups, uniform_by_fan_in(7 * 7 * self.in_chans), **self.precision
            )
        patch = pair(self.patch_size, 'patch_size')
        projection = partial(
            PatchEmbed,
            patch,
            self.embed_dim,
            use_bias=not self.pre_norm,
            norm=norm if self.embed_norm else None,
            **self.precision,
        )
        return HybridEmbed(backbone, projection, patch, **self.precision)

    def fitted(self, images: Array) -> Array:
        """Images of any size, if patches tile their feature map or it is filled up."""
        if not self.dynamic_img_pad:
            self.check_patches(images.shape[1:3])
        return images

    def check_patches(self, lengths: Sequence[int]) -> None:
        """Raises unless patches tile the feature map of images of these lengths."""
        features, patch = self.feature_lengths(lengths), pair(self.patch_size, 'patch_size')
        if any(length % side for length, side in zip(features, patch, strict=True)):
            raise ValueError(
                f'images of {lengths[0]} x {lengths[1]} have features of {features[0]} x {features[1]}, which are not '
                f'divisible by patch_size={self.patch_size}: dynamic_img_pad=True fills them up'
            )

    def feature_lengths(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """Height and width of the feature map of images of these lengths."""
        return tuple(-(-length // self.feature_stride) for length in lengths)

    @property
    def feature_stride(self) -> int:
        """Pixels for each feature along each axis."""
        return 4 * 2 ** max(len(self.layers) - 1, 0)

    @property
    def grid(self) -> Grid:
        lengths, patch = pair(self.img_size, 'img_size'), pair(self.patch_size, 'patch_size')
        whole = tuple(side * self.feature_stride for side in patch)
        (tokens,) = self.token_grids(lengths)
        return Grid(lengths, whole, tokens.shape, self.in_chans, 'b h w c', f'img_size={self.img_size}')

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        features, patch = self.feature_lengths(lengths), pair(self.patch_size, 'patch_size')
        shape = tuple(-(-length // side) for length, side in zip(features, patch, strict=True))
        return (TokenGrid(shape, self.num_prefix_tokens, self.num_suffix_tokens),)


CARD = ModelCard(
    HybridVisionTransformer,
    title='An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, hybrids',
    arxiv='2010.11929',
    takes='image [b h w c]',
    paper_size={},
    presets=sizes('vision_transformer_hybrid'),
)
