"""RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv:2104.09864.

vit-pytorch's `rvt`, a rotary ViT without a paper of its own: queries and keys are turned by the
position of their patch instead of adding positions, queries come from a depthwise convolution as in
CvT, and the feed-forward networks are gated.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.checks import pair
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchProjection
from vit_flax.blocks.rotary import axial_angles, rotate
from vit_flax.blocks.torch_like import Conv, Dense, LayerNorm, PointwiseConv, gelu
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase, published_size


class SpatialConv(Module):
    """Depthwise and 1x1 convolution of the patches, linear map of the class token, `[b 1+n c] -> [b 1+n features]`."""

    features: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: Array, rows: int) -> Array:
        dim, kernel = x.shape[-1], self.kernel_size
        cls, patches = x[:, :1], rearrange(x[:, 1:], 'b (h w) d -> b h w d', h=rows)
        depthwise = Conv(
            dim,
            (kernel, kernel),
            padding=kernel // 2,
            groups=dim,
            use_bias=False,
            **self.precision,
            name='depthwise',
        )
        patches = PointwiseConv(self.features, use_bias=False, **self.precision, name='pointwise')(depthwise(patches))
        if dim != self.features:
            cls = Dense(self.features, **self.precision, name='cls_proj')(cls)
        return jnp.concatenate(self.promote(cls, rearrange(patches, 'b h w d -> b (h w) d')), axis=1)

    torch_names = {'depthwise': 'conv.net.0', 'pointwise': 'conv.net.1'}


class RotaryAttention(Module):
    """Self-attention with rotary positions and convolved queries, `[b n d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0
    use_ds_conv: bool = True

    @nn.compact
    def __call__(self, x: Array, rows: int, angles: Array | None = None, train: bool = False) -> Array:
        """Args: x `[b n d]`, the class token first; rows: of the grid of patches; angles `[n a]`."""
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        if self.use_ds_conv:
            q = SpatialConv(inner, 5, **self.precision, name='to_q')(x, rows)
        else:
            q = Dense(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = Dense(2 * inner, use_bias=False, **self.precision, name='to_kv')(x)
        q, k, v = (split_heads(t, self.heads) for t in (q, *jnp.split(kv, 2, axis=-1)))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        x = Dense(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class GatedFeedForward(Module):
    """LayerNorm, gated GELU, Dropout, Linear, Dropout, `[... d] -> [... d]`; without gate the usual one."""

    hidden_dim: int
    dropout: float = 0.0
    gated: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = LayerNorm(**self.precision, name='norm')(x)
        x = Dense(self.hidden_dim * (2 if self.gated else 1), **self.precision, name='expand')(x)
        if self.gated:
            x, gates = jnp.split(x, 2, axis=-1)
            x = x * gelu(gates)
        else:
            x = gelu(x)
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        x = Dense(dim, **self.precision, name='contract')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'norm': 'net.0', 'expand': 'net.1', 'contract': 'net.4'}


class RvT(ViTBase, kw_only=True):
    """Rotary ViT: images `[b h w c]` to logits `[b num_classes]`; any number of patches will do.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      emb_dropout: without effect, as upstream.
      use_rotary: turn queries and keys; without it only convolutions encode positions.
      use_ds_conv: depthwise convolution before the queries.
      use_glu: gated feed-forward networks.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    use_rotary: bool = True
    use_ds_conv: bool = True
    use_glu: bool = True
    scan: bool = False
    remat: Remat = False

    norm_in_head = True
    # its convolutions and rotations want the whole grid
    can_embed_patches = can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_positions(self) -> int:
        return 0

    def setup(self) -> None:
        super().setup()
        # upstream: the frequencies are a buffer of the state dict, in float32; here they are a constant of the
        # model's variables, which holds what the state dict holds.
        fastest = max(pair(self.image_size, 'image_size')) / 2
        self.scales = self.variable(
            'constants', 'scales', lambda: jnp.linspace(1.0, fastest, self.dim_head // 4, dtype=jnp.float32)
        )

    def patch_embedding(self) -> nn.Module:
        return PatchProjection(self.patch_size, self.dim, **self.precision)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(RotaryAttention, self.heads, self.dim_head, self.dropout, self.use_ds_conv, **self.precision)

    def feedforward(self) -> Callable[..., nn.Module]:
        return partial(GatedFeedForward, self.mlp_dim, self.dropout, self.use_glu, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        # upstream: emb_dropout is accepted and has no effect.
        return self.tap('embedding', self.prepend(self.cls_token, self.patch_tokens(images)))

    def encode(self, tokens: Array, train: bool = False, grid: Sequence[int] | None = None) -> Array:
        """The transformer, `[b 1+n d] -> [b 1+n d]`; `grid` of the patches, that of `image_size` if None."""
        rows, columns = grid or self.grid.shape
        return self.transformer(tokens, rows, self.angles(rows, columns) if self.use_rotary else None, train=train)

    def angles(self, rows: int, columns: int) -> Array:
        """By how much the channels of each token turn, `[1 + rows * columns, a]`; not at all for the class token."""
        frequencies = self.scales.value
        positions = [jnp.linspace(-1, 1, steps, dtype=frequencies.dtype) * math.pi for steps in (rows, columns)]
        return jnp.pad(axial_angles(positions, frequencies), ((1, 0), (0, 0)))

    def __call__(self, images: Array, train: bool = False) -> Array:
        tokens = self.embed(images, train)
        tokens = self.encode(tokens, train, self.grid.shape_of(images))
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    torch_names = {**BATCH_AXES, 'scales': 'transformer.pos_emb.scales'}


CARD = ModelCard(
    RvT,
    title='RoFormer: Enhanced Transformer with Rotary Position Embedding',
    arxiv='2104.09864',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
