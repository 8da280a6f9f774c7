"""Nystromformer: A Nystrom-Based Algorithm for Approximating Self-Attention, arXiv:2102.03902.

As in the package nystrom-attention 0.0.14. Queries and keys are averaged in segments to landmarks;
three small attention maps between tokens and landmarks stand in for the large one, so that cost and
memory grow linearly with the number of tokens. The values, convolved along the tokens, are added.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from einops import reduce
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, attention_scores, merge_heads, split_heads
from vit_flax.blocks.kernels.depthwise import depthwise_conv
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm, gelu, uniform_by_fan_in
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import Chain, Permute, UnitAxes


def iterative_inverse(x: Array, iterations: int = 6, scale_each: bool = False) -> Array:
    """Moore-Penrose inverse of softmax maps by the paper's third-order iteration, `[... m n] -> [... n m]`.

    Args:
      x: nonnegative matrices.
      iterations: each triples the number of exact digits, once there is one.
      scale_each: start every matrix at its own norms, not at the largest among all of them.
    """
    columns, rows = x.sum(axis=-1), x.sum(axis=-2)
    if scale_each:
        largest = columns.max(axis=-1) * rows.max(axis=-1)
        z = x.mT / largest[..., None, None]
    else:
        # upstream: the iteration starts at the largest row and column sum of all heads and images, so that an
        # image's result depends a little on its batch; `scale_each_map=True` keeps the images apart.
        # from 0, so that the largest of an empty batch is defined
        z = x.mT / (columns.max(initial=0.0) * rows.max(initial=0.0))
    eye = jnp.eye(x.shape[-2], dtype=x.dtype)
    for _ in range(iterations):
        xz = x @ z
        z = 0.25 * z @ (13 * eye - xz @ (15 * eye - xz @ (7 * eye - xz)))
    return z


class TokenConv(Module):
    """Convolution along the tokens with one kernel for each head, `[b n (e k)] -> [b n (e k)]`."""

    heads: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = uniform_by_fan_in(self.kernel_size)
        x, kernel = self.promote(x, self.param('kernel', init, (self.kernel_size, self.heads), self.param_dtype))
        # a column of pixels, whose channels are those of all heads
        kernel = jnp.repeat(kernel, x.shape[-1] // self.heads, axis=1)[:, None, None]
        side = self.kernel_size // 2
        column = jnp.pad(x, ((0, 0), (side, side), (0, 0)))[:, :, None]
        return depthwise_conv(column, kernel)[:, :, 0]

    torch_names = {'kernel': ('weight', Chain((Permute((1, 0)), UnitAxes((1, 3)))))}


class NystromAttention(Module):
    """Pre-norm attention through landmarks, `[b n d] -> [b n d]`."""

    heads: int
    dim_head: int
    num_landmarks: int
    pinv_iterations: int
    residual_conv_kernel: int | None
    dropout: float = 0.0
    scale_each_map: bool = False

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, train: bool = False) -> Array:
        _, tokens, dim = x.shape
        length = -(-tokens // self.num_landmarks)
        x = LayerNorm(**self.precision, name='norm')(x)
        # upstream: zeros in front fill the sequence up to whole segments, and without a mask they take part in
        # the softmax over the tokens, as keys of score zero; a mask of ones leaves them out.
        filling = length * self.num_landmarks - tokens
        x = jnp.pad(x, ((0, 0), (filling, 0), (0, 0)))
        qkv = Dense(3 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_qkv')(x)
        to_tokens = to_landmarks = among_landmarks = None
        counts: int | Array = length
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (filling, 0)))
            qkv = jnp.where(mask[..., None], qkv, 0)
            seen = reduce(mask.astype(qkv.dtype), 'b (m l) -> b m', 'sum', l=length)
            counts = jnp.maximum(seen, 1)[:, None, :, None]
            token, landmark = mask[:, None], (seen > 0)[:, None]
            to_landmarks = token[..., :, None] & landmark[..., None, :]
            among_landmarks = landmark[..., :, None] & landmark[..., None, :]
            to_tokens = landmark[..., :, None] & token[..., None, :]
        values = jnp.split(qkv, 3, axis=-1)[2]
        q, k, v = (split_heads(t, self.heads) for t in jnp.split(qkv, 3, axis=-1))
        q = q * self.dim_head**-0.5
        q_landmarks, k_landmarks = (reduce(t, 'b e (m l) k -> b e m k', 'sum', l=length) / counts for t in (q, k))

        scores = attention_scores(q_landmarks, k_landmarks, 1.0)
        if among_landmarks is not None:
            scores = jnp.where(among_landmarks, scores, jnp.finfo(scores.dtype).min)
        inverse = iterative_inverse(nn.softmax(scores, axis=-1), self.pinv_iterations, self.scale_each_map)
        # from the right, so that no map of tokens by tokens is formed
        x = attend(self, q_landmarks, k, v, scale=1.0, mask=to_tokens)
        x = (inverse @ x.astype(inverse.dtype)).astype(v.dtype)
        x = merge_heads(attend(self, q, k_landmarks, x, scale=1.0, mask=to_landmarks))
        if self.residual_conv_kernel is not None:
            x = x + TokenConv(self.heads, self.residual_conv_kernel, **self.precision, name='residual_conv')(values)
        x = Dense(dim, **self.precision, name='to_out')(x[:, filling:])
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_qkv': 'fn.to_qkv', 'residual_conv': 'fn.res_conv', 'to_out': 'fn.to_out.0'}


class FeedForward(Module):
    """LayerNorm, Linear, GELU, Dropout, Linear, `[b n d] -> [b n d]`."""

    mult: int = 4
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = LayerNorm(**self.precision, name='norm')(x)
        x = gelu(Dense(self.mult * dim, **self.precision, name='expand')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        return Dense(dim, **self.precision, name='contract')(x)

    torch_names = {'expand': 'fn.net.0', 'contract': 'fn.net.3'}


class NystromBlock(Module):
    """x + attention(x, mask), then x + feedforward(x)."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, train: bool = False) -> Array:
        x = x + self.attention(name='attention')(x, mask, train=train)
        x = x + self.feedforward(name='feedforward')(x, train=train)
        return self.tap('block', x)

    torch_names = {'attention': '0', 'feedforward': '1'}


class Nystromformer(Module, kw_only=True):
    """Transformer with Nystrom attention (arXiv:2102.03902), `[b n d] -> [b n d]`.

    Attributes:
      dim: width of a token.
      depth: number of blocks.
      dim_head: width of one head.
      heads: attention heads in each block.
      num_landmarks: averages of queries and of keys; the exact attention needs as many as there are tokens.
      pinv_iterations: steps towards the inverse of the map between landmarks.
      attn_values_residual: add the values, convolved along the tokens.
      attn_values_residual_conv_kernel: width of that convolution, odd.
      attn_dropout: rate after the attention's output projection.
      ff_dropout: rate inside the feed-forward networks.
      scale_each_map: start the inverse of each map at its own norms, as the paper does, not at those of
        the whole batch, as nystrom-attention does.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: tokens of another width, or an even kernel.
    """

    dim: int
    depth: int
    dim_head: int = 64
    heads: int = 8
    num_landmarks: int = 256
    pinv_iterations: int = 6
    attn_values_residual: bool = True
    attn_values_residual_conv_kernel: int = 33
    attn_dropout: float = 0.0
    ff_dropout: float = 0.0
    scale_each_map: bool = False
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, train: bool = False) -> Array:
        """Args: x `[b n d]`; mask: bool `[b n]`, False for tokens that are not there."""
        if x.shape[-1] != self.dim:
            raise ValueError(f'dim={self.dim} of the transformer does not fit tokens of shape {x.shape}')
        kernel = self.attn_values_residual_conv_kernel
        if self.attn_values_residual and kernel % 2 == 0:
            raise ValueError(f'attn_values_residual_conv_kernel={kernel} must be odd, to be centred on a token')
        block = partial(
            NystromBlock,
            attention=partial(
                NystromAttention,
                self.heads,
                self.dim_head,
                self.num_landmarks,
                self.pinv_iterations,
                kernel if self.attn_values_residual else None,
                self.attn_dropout,
                self.scale_each_map,
                **self.precision,
            ),
            feedforward=partial(FeedForward, dropout=self.ff_dropout, **self.precision),
        )
        blocks = Transformer(self.depth, block, scan=self.scan, remat=self.remat, name='blocks')
        return blocks(x, mask, train=train)

    torch_names = {'blocks': ''}
