"""Layers with PyTorch's defaults: the only place where they are written down.

Flax differs silently in each: GELU is the tanh form, LayerNorm's epsilon is 1e-6, kernels are
drawn from LeCun's normal, BatchNorm keeps the biased variance and another momentum.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.nn.initializers import Initializer, ones

from vit_flax.blocks.depthwise import depthwise_conv
from vit_flax.blocks.module import Module
from vit_flax.blocks.volumes import conv_3d


def gelu(x: Array) -> Array:
    """Exact GELU by erf, as torch has it; `jax.nn.gelu` takes erfc, which is slower on a CPU."""
    return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))


def uniform_by_fan_in(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's weights *and* biases of Linear and Conv."""
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return init


class LayerNorm(nn.LayerNorm):
    """Normalises the last axis; the variance is computed in two passes, as torch does."""

    epsilon: float = 1e-5
    use_fast_variance: bool = False


class MeanSquareNorm(Module):
    """torch's nn.RMSNorm, `[... d] -> [... d]`: divided by the root of the mean square, times a factor a channel.

    The mean square is raised by the machine epsilon of the dtype that it is computed in.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param('scale', ones, x.shape[-1:], self.param_dtype)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean_square = (wide * wide).mean(axis=-1, keepdims=True)
        x, scale = self.promote(wide * jax.lax.rsqrt(mean_square + jnp.finfo(wide.dtype).eps), scale)
        return x * scale


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
            return matmul(*self.promote(x, kernel))
        bias = self.param('bias', self.bias_init or init, (self.features,), self.param_dtype)
        x, kernel, bias = self.promote(x, kernel, bias)
        return matmul(x, kernel) + bias


def matmul(x: Array, kernel: Array) -> Array:
    """`[... c] [c d] -> [... d]`.

    On a CPU the leading axes are merged first: the gradient of the kernel is then one plain matrix
    product, which shortens a training step by a third. Elsewhere they are left alone, since merging
    axes that are sharded would gather them.
    """
    if x.ndim == 2:
        return x @ kernel
    return jnp.matmul(x, kernel)


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
            x = depthwise_conv(jnp.repeat(x, self.features // channels, axis=-1), kernel, strides[0], padding[0])
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
        return x + bias[0] if bias else x


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

        if train:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
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

        x, mean, var, scale, bias = self.promote(x, mean, var, scale, bias)
        return (x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
