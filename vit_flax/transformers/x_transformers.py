"""The encoder of x-transformers 2.31.10, with those of its options that an image encoder has a use for.

Pre-norm attention and feed-forward with a norm at the end, no biases in attention and norms, and the
factors of the norms stored as differences from one. Residual attention (RealFormer, arXiv:2012.11747)
adds each layer's scores to the next one's; gated linear units are those of arXiv:2002.05202.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import zeros

from vit_flax.blocks.attention import attend, attention_scores, merge_heads, split_heads
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import OffsetLayerNorm, unit_length
from vit_flax.blocks.precision import in_float32, to_float32
from vit_flax.blocks.torch_like import Dense, gelu, silu
from vit_flax.blocks.transformer import Remat, Transformer


class OffsetRMSNorm(Module):
    """Vectors brought to length sqrt(d), times a factor stored as the difference from one, `[... d] -> [... d]`.

    Attributes:
      factors: how many: 'each' channel one, 'one' for all, or 'none'.
    """

    factors: str = 'each'

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        normed = unit_length(x) * width**0.5
        if self.factors == 'none':
            return self.cast(normed, x)
        gamma = self.param('g', zeros, (width,) if self.factors == 'each' else (1,), self.param_dtype)
        return self.cast(normed * (to_float32(gamma) + 1), x, gamma)


class Attention(Module):
    """Self-attention on earlier layers' scores, `[b n d], [b e n n] -> [b n d], [b e n n]`."""

    norm: Callable[..., nn.Module]
    heads: int
    dim_head: int
    dropout: float
    qk_norm: bool
    qk_norm_scale: float
    residual: bool

    @nn.compact
    def __call__(
        self, x: Array, earlier: Array | None = None, mask: Array | None = None, train: bool = False
    ) -> tuple[Array, Array | None]:
        """Args: x; earlier: the last layer's scores; mask: bool `[b n]`, False for tokens that are not there."""
        dim = x.shape[-1]
        x = self.norm(name='norm')(x)
        project = partial(Dense, self.heads * self.dim_head, use_bias=False, **self.precision)
        q, k, v = (split_heads(project(name=name)(x), self.heads) for name in ('to_q', 'to_k', 'to_v'))
        scale = self.dim_head**-0.5
        if self.qk_norm:
            q, k, scale = self.cast(unit_length(q), q), self.cast(unit_length(k), k), self.qk_norm_scale
        keys = None if mask is None else mask[:, None, None, :]
        x = attend(self, q, k, v, scale=scale, bias=earlier, mask=keys, dropout=self.dropout, train=train)
        scores = None
        if self.residual:
            # written as in `attend`, so that the compiler computes it once
            scores = attention_scores(q, k, scale)
            scores = scores if earlier is None else scores + earlier
        x = merge_heads(x)
        if self.heads > 1:
            x = Dense(dim, use_bias=False, **self.precision, name='to_out')(x)
        return (x if mask is None else jnp.where(mask[..., None], x, 0)), scores

    torch_names = {'norm': '0.0', 'to_q': '1.to_q', 'to_k': '1.to_k', 'to_v': '1.to_v', 'to_out': '1.to_out'}


class FeedForward(Module):
    """Norm, Linear with or without a gate, Dropout, Linear, `[b n d] -> [b n d]`."""

    norm: Callable[..., nn.Module]
    mult: float
    glu: bool
    activation: Callable[[Array], Array]
    dropout: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, inner = x.shape[-1], int(x.shape[-1] * self.mult)
        x = self.norm(name='norm')(x)
        if self.glu:
            up, gate = jnp.split(Dense(2 * inner, **self.precision, name='expand_and_gate')(x), 2, axis=-1)
            x = up * self.activation(gate)
        else:
            x = self.activation(Dense(inner, **self.precision, name='expand')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        return Dense(dim, **self.precision, name='contract')(x)

    torch_names = {
        'norm': '0.0',
        'expand_and_gate': '1.ff.0.proj',
        'expand': '1.ff.0.0',
        'contract': '1.ff.2',
    }


class EncoderBlock(Module):
    """Attention and feed-forward, each residual; the scores go along beside the tokens."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, carry: tuple[Array, Array | None], mask: Array | None = None, train: bool = False
    ) -> tuple[Array, Array | None]:
        x, scores = carry
        y, scores = self.attention(name='attention')(x, scores, mask, train=train)
        x = x + y
        x = x + self.feedforward(name='feedforward')(x, train=train)
        return self.tap('block', x), scores


class Encoder(Module, kw_only=True):
    """x-transformers' encoder, `[b n d] -> [b n d]`.

    Attributes:
      dim: width of a token.
      depth: number of blocks.
      heads: attention heads in each block; a single one has no output projection.
      attn_dim_head: width of one head.
      attn_dropout: rate on the attention maps.
      attn_qk_norm: queries and keys of length one, whose product is scaled by `attn_qk_norm_scale`.
      attn_qk_norm_scale: the factor.
      residual_attn: add the scores of each layer to those of the next.
      ff_mult: hidden width of the feed-forward networks over `dim`.
      ff_glu: gate the hidden units by as many others.
      ff_swish: SiLU instead of GELU; `ff_relu_squared`: the square of ReLU.
      ff_dropout: rate on the hidden units.
      use_rmsnorm: RMSNorm instead of LayerNorm; `use_simple_rmsnorm`: without factors; `use_scalenorm`: with
        one factor for all channels.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: tokens of another width, two kinds of norm or of activation, or a single head that is not as
        wide as a token.
    """

    dim: int
    depth: int
    heads: int = 8
    attn_dim_head: int = 64
    attn_dropout: float = 0.0
    attn_qk_norm: bool = False
    attn_qk_norm_scale: float = 10
    residual_attn: bool = False
    ff_mult: float = 4
    ff_glu: bool = False
    ff_swish: bool = False
    ff_relu_squared: bool = False
    ff_dropout: float = 0.0
    use_rmsnorm: bool = False
    use_simple_rmsnorm: bool = False
    use_scalenorm: bool = False
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, train: bool = False) -> Array:
        """Args: x `[b n d]`; mask: bool `[b n]`, False for tokens that are not there."""
        if x.shape[-1] != self.dim:
            raise ValueError(f'dim={self.dim} of the transformer does not fit tokens of shape {x.shape}')
        if self.heads == 1 and self.attn_dim_head != self.dim:
            raise ValueError(
                f'attn_dim_head={self.attn_dim_head} must be dim={self.dim} with heads=1, '
                'which has no output projection'
            )
        norm, activation = self._norm(), self._activation()
        block = partial(
            EncoderBlock,
            attention=partial(
                Attention,
                norm,
                self.heads,
                self.attn_dim_head,
                self.attn_dropout,
                self.attn_qk_norm,
                self.attn_qk_norm_scale,
                self.residual_attn,
                **self.precision,
            ),
            feedforward=partial(
                FeedForward, norm, self.ff_mult, self.ff_glu, activation, self.ff_dropout, **self.precision
            ),
        )
        scores = None
        if self.residual_attn:
            batch, tokens, _ = x.shape
            scores = jnp.zeros((batch, self.heads, tokens, tokens), self.dtype or x.dtype)
        blocks: Callable[..., Any] = Transformer(self.depth, block, scan=self.scan, remat=self.remat, name='blocks')
        x, _ = blocks((x, scores), mask, train=train)
        return norm(name='final_norm')(x)

    def _norm(self) -> Callable[..., nn.Module]:
        kinds: dict[str, Callable] = {
            'use_rmsnorm': partial(OffsetRMSNorm, 'each', **self.precision),
            'use_simple_rmsnorm': partial(OffsetRMSNorm, 'none', **self.precision),
            'use_scalenorm': partial(OffsetRMSNorm, 'one', **self.precision),
        }
        return self._one_of(kinds, partial(OffsetLayerNorm, **self.precision))

    def _activation(self) -> Callable[[Array], Array]:
        kinds: dict[str, Callable] = {'ff_swish': silu, 'ff_relu_squared': in_float32(lambda x: jax.nn.relu(x) ** 2)}
        return self._one_of(kinds, gelu)

    def _one_of(self, kinds: dict[str, Callable], otherwise: Callable) -> Callable:
        wanted = [name for name in kinds if getattr(self, name)]
        if len(wanted) > 1:
            raise ValueError(f'{" and ".join(wanted)} are both True: choose one')
        return kinds[wanted[0]] if wanted else otherwise

    torch_names = {
        'blocks': '',
        'blocks/block_{i}/attention': 'layers.{2*i}',
        'blocks/block_{i}/feedforward': 'layers.{2*i+1}',
    }
