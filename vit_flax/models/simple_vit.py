"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580.

vit-pytorch's `simple_vit`: a ViT with fixed 2-d sine-cosine positions, the average token
instead of a class token, one linear layer as head, and no dropout.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, cast

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import SimpleAttention
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.positions import sincos_2d, sincos_grid
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, Remat, SimpleFeedForward, Transformer
from vit_flax.card import ModelCard
from vit_flax.models.vit import NormedHead, published_size


class SimpleViTBase(Backbone, kw_only=True):
    """SimpleViT of any grid of patches; a model adds the arguments of its grid, and overrides what it changes.

    An input of another size than the model is built for takes the sine-cosine positions of its own grid.

    Attributes:
      num_classes: width of the logits; 0 returns the encoded tokens `[b n dim]` instead.
      dim: width of a token, a multiple of 4 for images.
      depth: number of blocks.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      channels: of the input.
      dim_head: width of one head.
      norm_in_head: the last norm follows the pooling.

    Raises:
      ValueError: patches do not tile the input, dim has no room for sines and cosines of all axes,
        or an input of another layout.
    """

    num_classes: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    channels: int = 3
    dim_head: int = 64

    norm_in_head: ClassVar[bool] = False
    can_embed_patches = can_drop_tokens = True

    # what only some models have as an argument
    scan = False
    remat = cast(Remat, False)

    def setup(self) -> None:
        self.to_patch_embedding = self.patch_embedding()
        self.transformer = self.trunk()
        if self.num_classes > 0:
            self.linear_head = self.classification_head()

    def patch_embedding(self) -> nn.Module:
        """Images to patch tokens, `[b H W c] -> [b h w d]`, likewise with other axes."""
        return PatchEmbedding(self.grid.patch, self.dim, **self.precision)

    def positions(self, *shape: int) -> np.ndarray:
        """The sine-cosine positions of a grid of patches, `[n d]`."""
        return sincos_2d(*shape, self.dim) if len(shape) == 2 else sincos_grid(shape, self.dim)

    def attention(self) -> Callable[..., nn.Module]:
        """Constructor of a block's attention."""
        return partial(SimpleAttention, self.heads, self.dim_head, **self.precision)

    def feedforward(self) -> Callable[..., nn.Module]:
        """Constructor of a block's feed-forward network."""
        return partial(SimpleFeedForward, self.mlp_dim, **self.precision)

    def block(self) -> Callable[..., nn.Module]:
        """Constructor of a block."""
        return partial(Block, self.attention(), self.feedforward())

    def trunk(self) -> nn.Module:
        """The transformer, `[b n d] -> [b n d]`."""
        norm = None if self.norm_in_head else partial(LayerNorm, **self.precision)
        return Transformer(self.depth, self.block(), norm, scan=self.scan, remat=self.remat)

    def classification_head(self) -> nn.Module:
        """Pooled features to logits, `[b d] -> [b num_classes]`."""
        return (NormedHead if self.norm_in_head else Dense)(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, `[b h w c] -> [b n d]`."""
        self.grid.check(images)
        x = self.to_patch_embedding(images)
        positions = self.positions(*x.shape[1:-1]).astype(x.dtype)
        return self.tap('embedding', rearrange(x, 'b ... d -> b (...) d') + positions)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, train=train)

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        """Encoded tokens to the features that the head reads, `[b n d] -> [b d]`."""
        return tokens.mean(axis=1)

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        return self.linear_head(self.tap('to_latent', self.pool_tokens(tokens, train)))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to encoded tokens `[b n d]` without classes."""
        tokens = self.encode(self.embed(images, train), train)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    # What objectives use that mask patches (see `vit_flax.objectives.encoder`).

    def embed_tokens(self, patches: Array) -> Array:
        """The values of patches to tokens without positions, `[b n p] -> [b n d]`."""
        return self.to_patch_embedding.embed(patches)

    def patch_positions(self, shape: Sequence[int]) -> Array:
        """Positions of a grid of patches alone, `[n d]`."""
        return jnp.asarray(self.positions(*shape))

    def prefix_tokens(self) -> Array:
        """The tokens before the patches: none, `[0 d]`."""
        return jnp.zeros((0, self.dim), self.param_dtype)

    # What the model declares of itself.

    @property
    def num_positions(self) -> int:
        """Number of patches of the grid that the model is built for."""
        return self.grid.num_patches

    @property
    def head(self) -> tuple[str, ...]:
        return ('linear_head/linear',) if self.norm_in_head else ('linear_head',)

    @property
    def layout(self) -> str:
        return self.grid.layout


class SimpleViT(SimpleViTBase, kw_only=True):
    """Simple ViT (arXiv:2205.01580): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)


CARD = ModelCard(
    SimpleViT,
    title='Better plain ViT baselines for ImageNet-1k',
    arxiv='2205.01580',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
    presets={
        'simple_vit_small_patch16_224': published_size(16, 384, 12, 6),
        'simple_vit_base_patch16_224': published_size(16, 768, 12, 12),
        'simple_vit_large_patch16_224': published_size(16, 1024, 24, 16),
        'simple_vit_huge_patch14_224': published_size(14, 1280, 32, 16),
        'simple_vit_giant_patch14_224': {**published_size(14, 1408, 40, 16), 'mlp_dim': 6144},
        'simple_vit_22b_patch14_224': published_size(14, 6144, 48, 48),
    },
)
