"""MOSS, a stack of spatio-temporal self-similarities, https://openreview.net/forum?id=Co6SCyBIjo, in a ViViT.

vit-pytorch's `vivit_with_moss`: between ViViT's attention across space and across time, each patch is
given its similarity to its neighbours in space and time, which shows motion. Both parts can be
causal and work on a stream, a few frames at a time, with what they must remember in a cache.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array, lax
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import unit_length
from vit_flax.blocks.precision import repeat, to_float32
from vit_flax.blocks.torch_like import Conv, Dense, LayerNorm, gelu
from vit_flax.blocks.transformer import Block, FeedForward, Remat, check_layout, rematerialised
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.vit import NormedHead
from vit_flax.models.vivit import ViViTBase, key_mask


class FrameNorm(LayerNorm):
    """LayerNorm over the channels of a frame, without bias."""

    use_bias: bool = False
    torch_names = {'scale': ('gamma', UnitAxes((0, 2, 3)))}


class STSSEncoder(Module):
    """Self-similarities to features, `[b t h w l (m n)] -> [b t h w dim]`: l steps of time, m x n positions around."""

    dim: int
    hidden_dim: int

    @nn.compact
    def __call__(self, similarities: Array) -> Array:
        time, steps = similarities.shape[1], similarities.shape[4]
        x = Dense(self.hidden_dim, **self.precision, name='spatial_to_hidden')(similarities)
        x = rearrange(x, 'b t h w l d -> (b t l) h w d')
        for i in range(2):
            x = Conv(self.hidden_dim, (3, 3), padding=1, **self.precision, name=f'conv_{i}')(x)
            x = gelu(FrameNorm(**self.precision, name=f'norm_{i}')(x))
        x = rearrange(x, '(b t l) h w d -> b t h w (l d)', t=time, l=steps)
        return Dense(self.dim, **self.precision, name='time_to_out')(x)

    torch_names = {'conv_{i}': 'conv.{3*i}', 'norm_{i}': 'conv.{3*i+1}'}


class MOSS(Module, kw_only=True):
    """Features of motion from self-similarities, `[b t h w d] -> [b t h w d]`.

    Attributes:
      dim: width of a token.
      local_time, local_height, local_width: steps and positions around a token that it is compared with; odd.
      hidden_dim: width of the convolutions that read the similarities.
      orders: the features of one order are compared in the next.
      causal: compare with the steps before alone, not with those after.

    Raises:
      ValueError: even neighbourhoods, a cache for what is not causal.
    """

    dim: int
    local_time: int = 3
    local_height: int = 3
    local_width: int = 3
    hidden_dim: int = 64
    orders: int = 2
    causal: bool = False

    def _similarities(self, x: Array, cache: Array | None) -> tuple[Array, Array]:
        """With each neighbour, `[b t h w l (m n)]`, and the steps to remember, `[b l-1 h w d]`."""
        past = self.local_time - 1 if self.causal else self.local_time // 2
        future = self.local_time - 1 - past
        rows, columns = self.local_height // 2, self.local_width // 2
        batch, steps, height, width, dim = x.shape
        x = unit_length(x).astype(x.dtype)
        if cache is None:
            cache = jnp.zeros((batch, past, height, width, dim), x.dtype)
        series = jnp.concatenate([cache.astype(x.dtype), x], axis=1)
        padded = jnp.pad(series, ((0, 0), (0, future), (rows, rows), (columns, columns), (0, 0)))

        def compare(*position: int) -> Array:
            starts = 0, *position, 0
            neighbour = lax.slice(padded, starts, [start + size for start, size in zip(starts, x.shape, strict=True)])
            return (to_float32(x) * to_float32(neighbour)).sum(axis=-1).astype(x.dtype)

        around = self.local_time, self.local_height, self.local_width
        similarities = jnp.stack([compare(*map(int, position)) for position in np.ndindex(*around)], axis=-1)
        return rearrange(similarities, 'b t h w (l m) -> b t h w l m', l=self.local_time), series[:, steps:]

    @nn.compact
    def __call__(
        self, x: Array, train: bool = False, cache: Sequence[Array] | None = None, return_cache: bool = False
    ) -> Any:
        """Tokens to features.

        Args:
          x: `[b t h w d]`, the whole video or, if causal, what follows on the part that gave the cache.
          train: takes no notice of it.
          cache: of the part before, one array for each order.
          return_cache: return `(features, cache)`; a cache of None if not causal.
        """
        for name in ('local_time', 'local_height', 'local_width'):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f'{name}={getattr(self, name)} must be odd, to be centred on a token')
        if cache is not None and not self.causal:
            raise ValueError('causal=False does not go with a cache: the steps to come are compared too')
        before = [None] * self.orders if cache is None else cache
        out = Dense(self.dim, **self.precision, name='to_out')(x)
        after = []
        for i, of_order in enumerate(before):
            # upstream: with local_time=1 the cache it returns is the whole video, which the next call cannot take;
            # here it is of no steps.
            similarities, remembered = self._similarities(x, of_order)
            after.append(remembered if self.causal else None)
            x = STSSEncoder(self.dim, self.hidden_dim, **self.precision, name=f'encoder_{i}')(similarities)
            out = out + Dense(self.dim, **self.precision, name=f'to_order_out_{i}')(x)
        self.tap('motion', out)
        return (out, tuple(after)) if return_cache else out

    torch_names = {'encoder_{i}': 'encoders.{i}', 'to_order_out_{i}': 'to_order_out.{i}'}


KeysAndValues = tuple[Array, Array]


class StreamingAttention(Module):
    """Self-attention across time that can go on where it stopped, `[b n d] -> [b n d]`.

    Attributes:
      causal: tokens attend to no later token.
    """

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        cache: KeysAndValues | None = None,
        return_cache: bool = False,
        train: bool = False,
    ) -> Any:
        """Args: x `[b n d]`; mask bool, broadcast to `[b e n m]`; cache: keys and values before, `[b e m-n k]`."""
        dim, length, inner = x.shape[-1], x.shape[1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        q, k, v = split_qkv(Dense(3 * inner, use_bias=False, **self.precision, name='to_qkv')(x), self.heads)
        if cache is not None:
            k, v = (jnp.concatenate([old, new], axis=2) for old, new in zip(cache, (k, v), strict=True))
        # upstream: the fused path aligns a causal mask with the first key, so that several tokens after a cache see
        # too little; here, as on upstream's other path, with the last. In evaluation that path also drops attention
        # maps; here none does.
        if self.causal and length > 1:
            if mask is not None:
                raise ValueError('causal attention does not go with a mask of keys')
            mask = jnp.tri(length, k.shape[2], k.shape[2] - length, dtype=bool)
        x = merge_heads(attend(self, q, k, v, scale=self.dim_head**-0.5, mask=mask, dropout=self.dropout, train=train))
        if self.heads != 1 or self.dim_head != dim:
            x = Dense(dim, **self.precision, name='to_out')(x)
            x = nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)
        return (x, (k, v)) if return_cache else x

    torch_names = {'to_out': 'to_out.0'}


class StreamingBlock(Module):
    """A block whose attention may take a cache and gives one."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, x: Array, mask: Array | None = None, cache: KeysAndValues | None = None, train: bool = False
    ) -> tuple[Array, KeysAndValues]:
        y, remembered = self.attention(name='attention')(x, mask, cache, return_cache=True, train=train)
        x = x + y
        x = x + self.feedforward(name='feedforward')(x, train=train)
        return self.tap('block', x), remembered

    torch_names = Block.torch_names


class Transformer(Module, kw_only=True):
    """Blocks across time and a norm, which can go on where they stopped, `[b n d] -> [b n d]`.

    Attributes:
      dim: width of a token.
      depth: number of blocks.
      heads, dim_head, mlp_dim, dropout: of each block.
      use_flash_attn: as of ViViT.
      causal: tokens attend to no later token.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    dim: int
    depth: int
    heads: int
    dim_head: int
    mlp_dim: int
    dropout: float = 0.0
    use_flash_attn: bool = True
    causal: bool = False
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        cache: Sequence[KeysAndValues] | None = None,
        return_cache: bool = False,
        train: bool = False,
    ) -> Any:
        """Runs the blocks.

        Args:
          x: `[b n d]`.
          mask: bool `[b n]`, which tokens may be attended to; not if causal.
          cache: keys and values of each block for the tokens before; None at the start.
          return_cache: return `(x, cache)`.
          train: dropout.
        """
        attention = partial(
            StreamingAttention, self.heads, self.dim_head, self.dropout, causal=self.causal, **self.precision
        )
        feedforward = partial(FeedForward, self.mlp_dim, self.dropout, **self.precision)
        keys = None if mask is None else key_mask(mask)
        make = partial(StreamingBlock, attention, feedforward)

        def step(block: nn.Module, x: Array, before: KeysAndValues | None) -> tuple[Array, KeysAndValues | None]:
            x, after = block(x, keys, before, train=train)
            return x, after if return_cache else None

        check_layout(self, self.scan)
        step = rematerialised(step, self.remat, self.scan)
        caches: list[Any] = [None] * self.depth if cache is None else [*cache]
        if self.scan and self.depth > 0:
            step = nn.scan(step, variable_axes={True: 0}, split_rngs={True: True}, length=self.depth)
            stacked = None if cache is None else jax.tree.map(lambda *layers: jnp.stack(layers), *caches)
            x, stacked = step(make(name='block'), x, stacked)
            if return_cache:
                caches = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(self.depth)]
        else:
            for i in range(self.depth):
                x, caches[i] = step(make(name=f'block_{i}'), x, caches[i])
        x = LayerNorm(**self.precision, name='norm')(x)
        return (x, tuple(caches)) if return_cache else x

    torch_names = {'block_{i}': 'layers.{i}'}


class ViViT(ViViTBase, kw_only=True):
    """ViViT with MOSS (openreview Co6SCyBIjo): videos `[b t h w c]` to logits `[b num_classes]`.

    Attributes:
      moss_local_time, moss_local_height, moss_local_width: neighbourhood of MOSS; odd.
      moss_hidden_dim: width of its convolutions.
      moss_orders: its orders.
      moss_causal: MOSS and the attention across time see no later steps; masks do not go with it.
      temporal_cls_last: the class token comes after the steps of time, so that it sees them even if
        `moss_causal`; upstream has it before them.
    """

    moss_local_time: int = 3
    moss_local_height: int = 3
    moss_local_width: int = 3
    moss_hidden_dim: int = 64
    moss_orders: int = 2
    moss_causal: bool = True
    # upstream: with the defaults, pool='cls' and moss_causal=True, the logits do not depend on the video: the class
    # token across time comes first and sees itself alone. `temporal_cls_last=True` or pool='mean' repairs it.
    temporal_cls_last: bool = False

    head = ('mlp_head/linear',)

    def setup(self) -> None:
        super().setup()
        self.spatial_transformer = self.trunk(self.spatial_depth, Block)
        self.temporal_transformer = Transformer(
            dim=self.dim,
            depth=self.temporal_depth,
            heads=self.heads,
            dim_head=self.dim_head,
            mlp_dim=self.mlp_dim,
            dropout=self.dropout,
            causal=self.moss_causal,
            scan=self.scan,
            remat=self.remat,
            **self.precision,
        )
        self.moss = MOSS(
            dim=self.dim,
            local_time=self.moss_local_time,
            local_height=self.moss_local_height,
            local_width=self.moss_local_width,
            hidden_dim=self.moss_hidden_dim,
            orders=self.moss_orders,
            causal=self.moss_causal,
            **self.precision,
        )
        if self.pool == 'cls':
            self.temporal_cls_token = self.param('temporal_cls_token', normal(1.0), (self.dim,), self.param_dtype)
        if self.num_classes > 0:
            self.mlp_head = NormedHead(self.num_classes, **self.precision)

    def encode(self, tokens: Array, train: bool = False, mask: Array | None = None) -> Array:
        """All attention, `[b t n d] -> [b t d]`, the class token first or last."""
        if mask is not None and self.moss_causal:
            raise ValueError('mask does not go with moss_causal=True, where no step attends to a later one anyway')
        seen = self.seen_steps(tokens, mask)
        x = self.across_space(self.spatial_transformer, tokens, train)
        first = int(self.pool == 'cls')
        _, rows, columns = self.grid.shape
        if x.shape[2] - first != rows * columns:
            raise ValueError(
                f'{x.shape[2] - first} patches do not stand on the grid of image_size={self.image_size}: '
                'give frames of this size'
            )
        patches = self.moss(rearrange(x[:, :, first:], 'b t (h w) d -> b t h w d', h=rows))
        steps = patches.mean(axis=(2, 3))
        if self.pool == 'mean':
            return self.temporal_transformer(steps, seen, train=train)
        steps = x[:, :, 0] + steps
        cls, steps = self.promote(repeat(self.temporal_cls_token, 'd -> b 1 d', b=x.shape[0]), steps)
        steps = jnp.concatenate([steps, cls] if self.temporal_cls_last else [cls, steps], axis=1)
        if seen is not None:
            sides = (0, 1) if self.temporal_cls_last else (1, 0)
            seen = jnp.pad(seen, ((0, 0), sides), constant_values=True)
        return self.temporal_transformer(steps, seen, train=train)

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """Pooled steps to logits, `[b t d] -> [b num_classes]`."""
        x = tokens.mean(axis=1) if self.pool == 'mean' else tokens[:, -1 if self.temporal_cls_last else 0]
        return self.mlp_head(self.tap('to_latent', x))


CARD = ModelCard(
    ViViT,
    title='MOSS: a stack of spatio-temporal self-similarities, in a ViViT',
    arxiv='https://openreview.net/forum?id=Co6SCyBIjo',
    takes='video [b t h w c]',
    paper_size=dict(
        image_size=256,
        image_patch_size=32,
        frames=8,
        frame_patch_size=2,
        mlp_dim=2048,
        heads=4,
        spatial_depth=2,
        temporal_depth=2,
        dim=512,
        num_classes=1000,
        moss_causal=True,
    ),
)
