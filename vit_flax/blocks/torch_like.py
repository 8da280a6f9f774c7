"""Layers with PyTorch's defaults: the only place where they are written down.

Flax differs silently in each: GELU is the tanh form, LayerNorm's epsilon is 1e-6, kernels are
drawn from LeCun's normal, BatchNorm keeps the biased variance and another momentum.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.nn.initializers import Initializer, ones

from vit_flax.blocks.backend import merges_leading_axes, rounds_products
from vit_flax.blocks.kernels.depthwise import depthwise_conv
from vit_flax.blocks.kernels.volumes import conv_3d
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import add, einsum_float32, in_float32, repeat, to_float32
from vit_flax.blocks.weight_ops import POINTWISE


def gelu(x: Array) -> Array:
    """Exact GELU, as torch has it.

    By erf, since erfc as in `jax.nn.gelu` is slower on a CPU; but 1 + erf has no digit left far below zero, where
    16-bit floats have all of theirs.
    """
    if x.dtype.itemsize > 2:
        return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))
    return in_float32(lambda x: 0.5 * x * lax.erfc(-x * math.sqrt(0.5)))(x)


silu = in_float32(jax.nn.silu)
hard_swish = in_float32(jax.nn.hard_swish)
gelu_tanh = in_float32(jax.nn.gelu)


def uniform_by_fan_in(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's weights *and* biases of Linear and Conv."""
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return init


class LayerNorm(Module):
    """Normalises the last axis, `[... d] -> [... d]`; the variance is computed in two passes, as torch does.

    Flax's own casts 16-bit tokens to float32 once for the statistics and once for what they normalise.
    The two halves of the gradient, which mostly cancel, are then rounded apart.
    """

    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        wide, parameters = to_float32(x), []
        centred = wide - wide.mean(axis=-1, keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + self.epsilon)
        if self.use_scale:
            parameters.append(self.param('scale', ones, x.shape[-1:], self.param_dtype))
            y = y * to_float32(parameters[-1])
        if self.use_bias:
            parameters.append(self.param('bias', nn.initializers.zeros, x.shape[-1:], self.param_dtype))
            y = y + to_float32(parameters[-1])
        return self.cast(y, x, *parameters)


class MeanSquareNorm(Module):
    """torch's nn.RMSNorm, `[... d] -> [... d]`: divided by the root of the mean square, times a factor a channel.

    Attributes:
      epsilon: added to the mean square; None is the machine epsilon of the dtype that it is computed in.
    """

    epsilon: float | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param('scale', ones, x.shape[-1:], self.param_dtype)
        wide = to_float32(x)
        epsilon = jnp.finfo(wide.dtype).eps if self.epsilon is None else self.epsilon
        normed = wide * lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + epsilon)
        return self.cast(normed * to_float32(scale), x, scale)


class Dense(Module):
    """Linear map of the last axis, [... c] -> [... features].

    Attributes:
      kernel_init, bias_init: of the models that do not keep torch's own.
    """

    features: int
    use_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = uniform_by_fan_in(x.shape[-1])
        kernel = self.param('kernel', self.kernel_init or init, (x.shape[-1], self.features), self.param_dtype)
        if not self.use_bias:
            x, kernel = self.promote(x, kernel)
            return matmul(x, kernel)
        bias = self.param('bias', self.bias_init or init, (self.features,), self.param_dtype)
        x, kernel, bias = self.promote(x, kernel, bias)
        return affine(x, kernel, bias)


def matmul(x: Array, kernel: Array, product: Callable[[Array, Array], Array] = jnp.matmul) -> Array:
    """`[... c] [c d] -> [... d]`, in the form that is fast on the platform."""
    if x.ndim == 2 or not merges_leading_axes():
        return product(x, kernel)
    merged = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return product(merged, kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def affine(x: Array, kernel: Array, bias: Array) -> Array:
    """`x @ kernel + bias`, rounded to 16 bits once, or twice where that is much faster."""
    if rounds_products():
        return add(matmul(x, kernel), bias)
    product = matmul(x, kernel, partial(einsum_float32, '... c, c d -> ... d'))
    return (product + to_float32(bias)).astype(x.dtype)


class PointwiseConv(Dense):
    """1x1 convolution: a matrix product on the channels."""

    torch_names = {'kernel': ('weight', POINTWISE)}


class Conv(Module):
    """Convolution, [b *space c] -> [b *space features]; `padding` is explicit, equal on both sides.

    Attributes:
      strides, padding: one number, or one for each axis of space.
      groups: as torch's; equal to the channels it is a depthwise convolution, which has a
        faster form of its own on a CPU.
      kernel_init: of the models that do not keep torch's own.
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, rank = x.shape[-1], len(self.kernel_size)
        strides, padding = (
            (value,) * rank if isinstance(value, int) else tuple(value) for value in (self.strides, self.padding)
        )
        if channels % self.groups:
            raise ValueError(f'groups={self.groups} must divide the {channels} input channels')
        fan_in = math.prod(self.kernel_size) * channels // self.groups
        init = uniform_by_fan_in(fan_in)
        shape = (*self.kernel_size, channels // self.groups, self.features)
        parameters = [self.param('kernel', self.kernel_init or init, shape, self.param_dtype)]
        if self.use_bias:
            parameters.append(self.param('bias', init, (self.features,), self.param_dtype))
        x, kernel, *bias = self.promote(x, *parameters)
        square = len({*strides}) == len({*padding}) == 1
        if self.groups == channels and rank == 2 and square and (channels > 1 or self.features == 1):
            x = depthwise_conv(
                repeat(x, '... c -> ... (c m)', m=self.features // channels), kernel, strides[0], padding[0]
            )
        elif self.groups == 1 and rank == 3:
            x = conv_3d(x, kernel, strides, padding)
        else:
            space = 'DHW'[-rank:]
            x = lax.conv_general_dilated(
                x,
                kernel,
                window_strides=strides,
                padding=[(side, side) for side in padding],
                dimension_numbers=(f'N{space}C', f'{space}IO', f'N{space}C'),
                feature_group_count=self.groups,
            )
        return add(x, bias[0]) if bias else x


class BatchNorm(Module):
    """Normalises over all axes but the last, with running statistics in `batch_stats`.

    As torch: in training the batch's biased variance normalises, the unbiased one enters the
    running average, and `count` is torch's `num_batches_tracked`. Statistics are over the global
    batch: under jit on a mesh they are synchronised without being asked.

    Attributes:
      scale_init: of the models that do not start at one.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, train: bool = False, update: bool | Array = True) -> Array:
        """Args: x `[... c]`; train: use and record the batch's statistics; update: record them at all."""
        features = x.shape[-1:]
        mean_state = self.variable('batch_stats', 'mean', jnp.zeros, features, jnp.float32)
        var_state = self.variable('batch_stats', 'var', jnp.ones, features, jnp.float32)
        count = self.variable('batch_stats', 'count', jnp.zeros, (), jnp.int32)
        scale = self.param('scale', self.scale_init, features, self.param_dtype)
        bias = self.param('bias', nn.initializers.zeros, features, self.param_dtype)

        # a mean rounded to 16 bits would shift every channel whose mean is large against its deviation
        wide = to_float32(x)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, var = wide.mean(axes), wide.var(axes)
            if not self.is_initializing():
                size = x.size // x.shape[-1]
                unbiased = var * (size / max(size - 1, 1))
                for state, new in ((mean_state, mean), (var_state, unbiased)):
                    blend = self.momentum * state.value + (1 - self.momentum) * new
                    state.value = jnp.where(update, blend, state.value).astype(state.value.dtype)
                count.value = jnp.where(update, count.value + 1, count.value)
        else:
            mean, var = mean_state.value, var_state.value

        factor = lax.rsqrt(var + self.epsilon) * to_float32(scale)
        return self.cast((wide - mean) * factor + to_float32(bias), x, scale, bias)
