"""Rotary position embedding for grids of n axes, https://jerryxio.ng/posts/nd-rope.

vit-pytorch's `vit_nd_rotary`: a ViT of 1 to 7 axes without a position table or a class token. Each
pair of channels turns with the position of its token along a direction of its own in the grid ("golden
gate" RoPE), not along one axis alone, so that any input whose patches fit may come.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.checks import check_divisible
from vit_flax.blocks.module import Module
from vit_flax.blocks.rotary import golden_gate_frequencies, grid_angles
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.card import ModelCard
from vit_flax.models.vit_nd import CausalViTBase


class PlacedAttention(Module):
    """Attention with position-encoded queries and keys, `[b n d] -> [b n d]`; subclasses define `position`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    def position(self, q: Array, k: Array, positions: tuple[Array, ...]) -> tuple[Array, Array]:
        """Position-encoded queries and keys, `[b e n k]`; `positions` as from `PositionedViTBase.positions`."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: Array, positions: tuple[Array, ...], mask: Array | None = None, train: bool = False) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        qk = Dense(2 * inner, use_bias=False, **self.precision, name='to_qk')(x)
        v = Dense(inner, use_bias=False, **self.precision, name='to_v')(x)
        q, k, v = (split_heads(t, self.heads) for t in (*jnp.split(qk, 2, axis=-1), v))
        # upstream: `dropout` never reaches the attention maps, only what the attention puts out.
        x = merge_heads(attend(self, *self.position(q, k, positions), v, scale=self.dim_head**-0.5, mask=mask))
        if self.heads == 1 and self.dim_head == dim:
            return x
        x = Dense(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class RotaryAttention(PlacedAttention):
    """Rotary position embedding of queries and keys: channel i with channel i + k/2."""

    def position(self, q: Array, k: Array, positions: tuple[Array, ...]) -> tuple[Array, Array]:
        cos, sin = positions
        return rotate_halves(q, cos, sin), rotate_halves(k, cos, sin)


def rotate_halves(x: Array, cos: Array, sin: Array) -> Array:
    """Turns the points (first half, second half of the channels), `[b e n 2f], [e n f] -> [b e n 2f]`."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


class PositionedViTBase(CausalViTBase, kw_only=True):
    """A ViT of n axes whose attention encodes the positions: no position table, no class token, average pooling."""

    # the attention encodes the positions
    can_embed_patches = can_drop_tokens = False

    @property
    def num_cls_tokens(self) -> int:
        return 0

    @property
    def num_positions(self) -> int:
        return 0

    def positions(self, grid: Sequence[int]) -> tuple[Array, ...]:
        """Position encodings of a grid of patches, for the attention."""
        raise NotImplementedError

    def embed(self, x: Array, train: bool = False) -> Array:
        """Grids to tokens, `[b *grid c] -> [b n d]`."""
        if self.causal_dims is not None:
            # upstream: with `causal_dims` an input of another shape is masked as if its patches stood on the grid of
            # `input_shape`; here it is refused.
            self.check_shape(x, 'causal_dims masks this grid')
        return self.tap('embedding', self.embedding_dropout(self.patch_tokens(x), deterministic=not train))

    def encode(self, tokens: Array, train: bool = False, grid: Sequence[int] | None = None) -> Array:
        """The transformer, `[b n d] -> [b n d]`; `grid` of the patches, if not that of `input_shape`."""
        return self.transformer(tokens, self.positions(grid or self.grid.shape), self.mask(), train=train)

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        return tokens.mean(axis=1)

    def muon_parameters(self, params: Any) -> Any:
        """Which parameters are meant for the optimizer Muon: a tree of bools like `params`."""
        # upstream: `muon_parameters` leaves queries and keys out, and fails for a model of one head without an output
        # projection.
        names = {'to_v', 'to_out', 'expand', 'contract'}

        def is_meant(path: tuple[Any, ...], _: Any) -> bool:
            return path[-1].key == 'kernel' and path[-2].key in names

        return jax.tree_util.tree_map_with_path(is_meant, params)

    def __call__(self, x: Array, train: bool = False, return_embed: bool = False) -> Array:
        """Grids to logits.

        Args:
          x: `[b *grid c]`; of another shape than `input_shape` if patches fit and `causal_dims` is None.
          train: dropout.
          return_embed: return the encoded patches `[b *grid d]` instead.
        """
        tokens = self.embed(x, train)
        grid = self.grid.shape_of(x)
        tokens = self.encode(tokens, train, grid)
        if return_embed:
            return self.on_grid(tokens, grid)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens


class ViTND(PositionedViTBase, kw_only=True):
    """ViT of n axes with golden-gate rotary positions: `[b *grid c]` to logits `[b num_classes]`.

    Attributes:
      rope_min_freq: lowest frequency, in radians for each patch.
      rope_max_freq: highest.
      rope_p_zero_freqs: share of the pairs of channels that do not turn.
    """

    rope_min_freq: float = 1.0
    rope_max_freq: float = 10000.0
    rope_p_zero_freqs: float = 0.0

    def setup(self) -> None:
        check_divisible('dim_head', self.dim_head, 'the two coordinates of a point', 2)
        # upstream: the frequencies are a buffer in float32, which the state dict has once for each layer and once for
        # the model; here they are one constant of the model's variables, which holds what the state dict holds.
        # Upstream turns queries and keys in float32, here they are turned in their own precision.
        self.freqs = self.variable('constants', 'freqs', self.frequencies)
        super().setup()

    def frequencies(self) -> Array:
        """Turn of each pair of channels for a step along each axis, `[e f axes]`."""
        rates = self.rope_min_freq, self.rope_max_freq, self.rope_p_zero_freqs
        return jnp.asarray(golden_gate_frequencies(self.heads, self.dim_head // 2, self.ndim, *rates), jnp.float32)

    def positions(self, grid: Sequence[int]) -> tuple[Array, ...]:
        angles = grid_angles(grid, self.freqs.value)
        return jnp.cos(angles), jnp.sin(angles)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(RotaryAttention, self.heads, self.dim_head, self.dropout, **self.precision)

    torch_names = {'freqs': 'rotary_emb.freqs'}
    torch_ties = {
        'freqs': lambda model: [f'transformer.layers.{i}.0.rotary_emb.freqs' for i in range(model.depth)],
    }


def published_size() -> dict[str, Any]:
    """Keyword arguments of the example that vit-pytorch leads with."""
    return dict(
        causal_dims=(0,),
        input_shape=(4, 8, 16, 32, 64),
        patch_size=(2, 2, 4, 4, 8),
        ndim=5,
        dim=512,
        depth=6,
        heads=8,
        mlp_dim=2048,
        num_classes=1000,
    )


CARD = ModelCard(
    ViTND,
    title='On N-dimensional Rotary Positional Embeddings',
    arxiv='https://jerryxio.ng/posts/nd-rope',
    takes='n-d [b *grid c]',
    paper_size=published_size(),
)
