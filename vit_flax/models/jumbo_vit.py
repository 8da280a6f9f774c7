"""Simpler Fast Vision Transformers with a Jumbo CLS Token, arXiv:2502.15021.

vit-pytorch's `jumbo_vit`: SimpleViT with a class token several times as wide as a patch. It is cut
into tokens for the attention and put together for a feed-forward network of its own, which all
blocks share. The class token is what is classified.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import zeros

from vit_flax.blocks.attention import SimpleAttention
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.torch_like import LayerNorm
from vit_flax.blocks.transformer import BARE_SIMPLE_FEEDFORWARD, SimpleFeedForward
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase


class JumboTransformer(Module):
    """Blocks on jumbo tokens, cut into k pieces, and patches: `[b (m k) d], [b n d] -> [b d]`."""

    depth: int
    heads: int
    dim_head: int
    mlp_dim: float
    jumbo_cls_k: int
    jumbo_ff_mult: float

    @nn.compact
    def __call__(self, jumbo: Array, x: Array, train: bool = False) -> Array:
        (_, pieces, dim), k = jumbo.shape, self.jumbo_cls_k
        # upstream: `mlp_dim` and the jumbo feed-forward's hidden width are factors that multiply a width which is
        # already one: hidden widths are dim * mlp_dim and (k * dim)**2 * jumbo_ff_mult.
        hidden = int(k * dim * int(k * dim * self.jumbo_ff_mult))
        jumbo_ff = SimpleFeedForward(hidden, **self.precision, name='jumbo_ff')
        for i in range(self.depth):
            both = jnp.concatenate([jumbo, x], axis=1)
            attention = SimpleAttention(self.heads, self.dim_head, **self.precision, name=f'block_{i}_attention')
            both = both + attention(both)
            jumbo, x = both[:, :pieces], both[:, pieces:]
            feedforward = SimpleFeedForward(int(dim * self.mlp_dim), **self.precision, name=f'block_{i}_feedforward')
            x = x + feedforward(x)
            whole = jumbo_ff(rearrange(jumbo, 'b (m k) d -> b m (k d)', k=k))
            jumbo = jumbo + rearrange(whole, 'b m (k d) -> b (m k) d', k=k)
            self.tap(f'block_{i}', jnp.concatenate([jumbo, x], axis=1))
        return LayerNorm(**self.precision, name='norm')(jumbo.mean(axis=1))

    torch_names = {
        'jumbo_ff': ('jumbo_ff.1', BARE_SIMPLE_FEEDFORWARD),
        'block_{i}_attention': 'layers.{i}.0',
        'block_{i}_feedforward': ('layers.{i}.1', BARE_SIMPLE_FEEDFORWARD),
    }


class JumboViT(SimpleViTBase, kw_only=True):
    """SimpleViT with a jumbo class token (arXiv:2502.15021): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      mlp_dim: hidden width of the patches' feed-forward networks, as a multiple of `dim`.
      num_jumbo_cls: jumbo tokens.
      jumbo_cls_k: width of a jumbo token, as a multiple of `dim`.
      jumbo_ff_mult: hidden width of their feed-forward network is (jumbo_cls_k * dim)**2 times this.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_jumbo_cls: int = 1
    jumbo_cls_k: int = 6
    mlp_dim: float  # type: ignore[assignment]
    jumbo_ff_mult: float = 2

    # it encodes to one vector, not to tokens
    can_embed_patches = can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_prefix_tokens(self) -> int:
        return self.num_jumbo_cls * self.jumbo_cls_k

    def setup(self) -> None:
        super().setup()
        shape = (self.num_jumbo_cls, self.jumbo_cls_k * self.dim)
        self.jumbo_cls_token = self.param('jumbo_cls_token', zeros, shape, self.param_dtype)

    def trunk(self) -> nn.Module:
        return JumboTransformer(
            self.depth,
            self.heads,
            self.dim_head,
            self.mlp_dim,
            self.jumbo_cls_k,
            self.jumbo_ff_mult,
            **self.precision,
        )

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """Jumbo token and patches through the transformer to one embedding, `[b n d] -> [b d]`."""
        jumbo = repeat(self.jumbo_cls_token, 'm (k d) -> b (m k) d', b=tokens.shape[0], k=self.jumbo_cls_k)
        return self.transformer(*self.promote(jumbo, tokens), train=train)

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        return tokens

    torch_names = {'transformer': ''}


CARD = ModelCard(
    JumboViT,
    title='Simpler Fast Vision Transformers with a Jumbo CLS Token',
    arxiv='2502.15021',
    takes='image [b h w c]',
    paper_size=dict(image_size=64, patch_size=8, num_classes=1000, dim=16, depth=2, heads=2, mlp_dim=32, jumbo_cls_k=3),
)
