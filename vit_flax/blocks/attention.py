"""Softmax attention: the one function that chooses how it is computed, and the two modules most models share."""

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from vit_flax.blocks.backend import has_cudnn
from vit_flax.blocks.kernels.query_blocks import in_query_blocks, is_long
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import einsum_float32, to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm


def attend(
    module: Module,
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    bias: Array | None = None,
    mask: Array | None = None,
    dropout: float = 0.0,
    train: bool = False,
) -> Array:
    """softmax(scale * q k^T + bias) v, with the map tapped as `attention`.

    A fused kernel is used where the device, the dtype and the head width allow one and nobody asks
    for the map (no taps read, no dropout on it); otherwise the map is formed, that of long inputs for
    a block of queries at a time. For forward-mode derivatives through a fused kernel see
    `vit_flax.blocks.backend.without_cudnn`.

    Args:
      module: the attention module that calls; owns the tap and the dropout's rng.
      q: `[b e n k]`.
      k, v: `[b e m k]` (the width of v may differ).
      scale: multiplies the scores.
      bias: added to the scores, broadcast to `[b e n m]`.
      mask: bool, True where attention is allowed, broadcast to `[b e n m]`. A row without any
        allowed key attends to all keys equally, so that it stays finite.
      dropout: rate on the map, active with `train`.

    Returns:
      `[b e n k]`.
    """
    rate = dropout if train else 0.0
    key = module.make_rng('dropout') if rate > 0 else None
    if module.tapped:
        weights = jax.nn.softmax(_biased_scores(q, k, scale, bias, mask), axis=-1).astype(v.dtype)
        return _apply_weights(_dropped(module.tap('attention', weights), rate, key), v)
    if key is None and _fused_kernel_fits(q, k, v, bias, mask):
        out = _fused(q, k, v, scale, bias, mask)
        if out is not None:
            return out
    rows: Callable[..., Array] = partial(_attend_rows, scale=scale, rate=rate)
    if is_long(q, k):
        return in_query_blocks(rows, q, k, v, bias, mask, key)
    # In 16 bits the map would stay for the gradient twice, in float32 and rounded: neither does.
    rows = jax.checkpoint(rows) if v.dtype.itemsize == 2 else rows
    return rows(q, k, v, bias, mask, key)


def _attend_rows(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    mask: Array | None,
    key: Array | None,
    *,
    scale: float,
    rate: float,
) -> Array:
    """Attention with its map formed, see `attend`; `key` is that of the dropout."""
    scores = _biased_scores(q, k, scale, bias, mask)
    if v.dtype.itemsize > 2 and key is None:
        return _softmax_average(scores, v)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return _apply_weights(_dropped(weights, rate, key), v)


def _biased_scores(q: Array, k: Array, scale: float, bias: Array | None, mask: Array | None) -> Array:
    scores = attention_scores(q, k, scale)
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    return scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min)


def _dropped(weights: Array, rate: float, key: Array | None) -> Array:
    if key is None:
        return weights
    dropped: Any = nn.Dropout(rate, deterministic=False, parent=None).apply({}, weights, rng=key)
    return dropped


def attention_scores(q: Array, k: Array, scale: float) -> Array:
    """scale * q k^T in float32 at least, `[b e n k], [b e m k] -> [b e n m]`.

    Rounded to 16 bits, a score of 18 would change its weight by up to 8 %, and float16 would overflow.
    """
    return scale * einsum_float32('b e n k, b e m k -> b e n m', q, k)


def attention_map(
    module: Module, scores: Array, dtype: DTypeLike, *, dropout: float = 0.0, train: bool = False
) -> Array:
    """softmax(scores) in `dtype`, tapped as `attention`, then dropout, `[b e n m] -> [b e n m]`.

    For attentions that change the map before they apply it; all others call `attend`.
    """
    weights = module.tap('attention', jax.nn.softmax(to_float32(scores), axis=-1).astype(dtype))
    return nn.Dropout(dropout, name='attention_dropout')(weights, deterministic=not train)


def mix_heads(maps: Array, mixture: Array) -> Array:
    """Linear combinations of the heads, `[b e n m], [e f] -> [b f n m]`.

    A matrix product with the positions as columns: contracting the axis of the heads in place takes
    XLA four times as long on a CPU.
    """
    batch, heads, n, m = maps.shape
    mixture = jnp.broadcast_to(to_float32(mixture.T), (batch, *mixture.T.shape)).astype(maps.dtype)
    return (mixture @ maps.reshape(batch, heads, n * m)).reshape(batch, mixture.shape[1], n, m)


def _apply_weights(weights: Array, v: Array) -> Array:
    return jnp.einsum('b e n m, b e m k -> b e n k', weights, v)


@jax.custom_jvp
def _softmax_average(scores: Array, v: Array) -> Array:
    """softmax(scores) v in float32 or wider, `[b e n m] [b e m k] -> [b e n k]`.

    The derivative is written so that its transpose sums over the k channels of the output where
    that of a plain softmax sums over the m keys (as in FlashAttention, arXiv:2205.14135). The two
    sums are equal but for rounding. In 16 bits that is too much: where values have a common part,
    most of a score's gradient cancels, and only the plain sum cancels the rounding of its terms too.
    """
    return _apply_weights(jax.nn.softmax(scores, axis=-1), v)


@_softmax_average.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (scores, v), (scores_dot, v_dot) = primals, tangents
    weights = jax.nn.softmax(scores, axis=-1)
    out = _apply_weights(weights, v)
    raised = weights * scores_dot
    lowered = raised.sum(axis=-1, keepdims=True) * out
    return out, _apply_weights(raised, v) - lowered + _apply_weights(weights, v_dot)


def _fused_kernel_fits(q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None) -> bool:
    """cuDNN's kernel: 16-bit floats, head widths that are multiples of 8 up to 128; with a bias or mask even lengths.

    Asked before, since the rule of its gradient refuses odd lengths where nobody can catch it: under scan and remat.
    """
    even = q.shape[-2] % 2 == 0 and k.shape[-2] % 2 == 0
    return (
        has_cudnn()
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[-1] == v.shape[-1]
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 128
        and (even or (bias is None and mask is None))
    )


def _fused(q, k, v, scale, bias, mask) -> Array | None:
    # of bias and mask it wants queries and keys whole, and of the bias the dtype of the queries
    lengths = q.shape[-2], k.shape[-2]
    bias, mask = (x if x is None else jnp.broadcast_to(x, (*x.shape[:-2], *lengths)) for x in (bias, mask))
    bias = bias if bias is None else bias.astype(q.dtype)
    q, k, v = (rearrange(x, 'b e n k -> b n e k') for x in (q, k, v))
    try:
        out = jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, implementation='cudnn')
    except (RuntimeError, ValueError, NotImplementedError) as error:
        _warn_once(f'{type(error).__name__}: {error}')
        return None
    return rearrange(out, 'b n e k -> b e n k')


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f'fused attention is not available here, the attention map is formed instead ({reason})', stacklevel=4
    )


def split_heads(x: Array, heads: int) -> Array:
    """`[b n (e k)] -> [b e n k]`."""
    return rearrange(x, 'b n (e k) -> b e n k', e=heads)


def split_qkv(qkv: Array, heads: int) -> list[Array]:
    """One projection to queries, keys and values, `[b n (3 e k)] -> 3 x [b e n k]`."""
    return [split_heads(x, heads) for x in jnp.split(qkv, 3, axis=-1)]


def merge_heads(x: Array) -> Array:
    """`[b e n k] -> [b n (e k)]`."""
    return rearrange(x, 'b e n k -> b n (e k)')


class Attention(Module):
    """Pre-norm multi-head self-attention, `[b n d] -> [b n d]`.

    As in vit-pytorch, a single head as wide as the token has no output projection.

    Attributes:
      norm: constructor of the norm before the projections; takes a name.
      qkv_bias: a bias on queries, keys and values.
    """

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0
    norm: Callable[..., Any] = LayerNorm
    qkv_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, train: bool = False) -> Array:
        """Args: x `[b n d]`; mask bool, True where attention is allowed, broadcast to `[b e n n]`."""
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = self.norm(**self.precision, name='norm')(x)
        qkv = Dense(3 * inner, use_bias=self.qkv_bias, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, mask=mask, dropout=self.map_dropout, train=train)
        x = merge_heads(x)
        if not self.projects(dim):
            return x
        x = Dense(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    @property
    def map_dropout(self) -> float:
        """Rate of dropout on the maps."""
        return self.dropout

    def projects(self, dim: int) -> bool:
        """Whether heads are projected to tokens of this width."""
        return self.heads != 1 or self.dim_head != dim

    torch_names = {'to_out': 'to_out.0'}


class ProjectedAttention(Attention):
    """The same with an output projection always."""

    def projects(self, dim: int) -> bool:
        return True


class SimpleAttention(Module):
    """The same in the SimpleViT family: no dropout, an output projection always, without bias."""

    heads: int = 8
    dim_head: int = 64

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        qkv = Dense(3 * inner, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        x = merge_heads(attend(self, q, k, v, scale=self.dim_head**-0.5))
        return Dense(dim, use_bias=False, **self.precision, name='to_out')(x)
