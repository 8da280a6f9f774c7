"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580.

vit-pytorch's `simple_vit`: a ViT with fixed 2-d sine-cosine positions, the average token
instead of a class token, one linear layer as head, and no dropout.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import SimpleAttention
from vit_flax.blocks.feedforward import SimpleFeedForward
from vit_flax.blocks.grids import Grid, ImageGrid
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.positions import sincos_2d, sincos_grid
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, Transformer
from vit_flax.models.vit import published_size
from vit_flax.registry import Model


class SimpleGridViTBase(Grid, kw_only=True):
    """All of SimpleViT but its trunk and the axes of its input: patches, positions, average pooling, head.

    A variant overrides what it changes: `trunk`, `attention`, `feedforward`, `head`, or a stage of
    the forward pass (`embed`, `encode`, `classify`). An input of another size than the model is
    built for takes the table of positions of its own grid.

    Attributes:
      num_classes: width of the logits.
      dim: width of a token, a multiple of 4 for images.
      depth: number of blocks.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      channels: of the input.
      dim_head: width of one head.

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

    def setup(self) -> None:
        _ = self.grid
        self.to_patch_embedding = self.patch_embedding()
        self.transformer = self.trunk()
        self.linear_head = self.head()

    def patch_embedding(self) -> nn.Module:
        """Images to patches, `[b H W c] -> [b h w d]`, likewise with other axes."""
        return PatchEmbedding(self.patch_lengths, self.dim, **self.precision)

    def positions(self, *grid: int) -> np.ndarray:
        """The table of positions of a grid of patches, `[n d]`."""
        return sincos_grid(grid, self.dim)

    def trunk(self) -> nn.Module:
        """The transformer, `[b n d] -> [b n d]`."""
        raise NotImplementedError

    def attention(self) -> Callable[..., nn.Module]:
        """Constructor of a block's attention."""
        return partial(SimpleAttention, self.heads, self.dim_head, **self.precision)

    def feedforward(self) -> Callable[..., nn.Module]:
        """Constructor of a block's feed-forward network."""
        return partial(SimpleFeedForward, self.mlp_dim, **self.precision)

    def head(self) -> nn.Module:
        """From the average token to the logits."""
        return Dense(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, `[b h w c] -> [b n d]`."""
        self.check_input(images)
        x = self.to_patch_embedding(images)
        positions = self.positions(*x.shape[1:-1]).astype(x.dtype)
        return self.tap('embedding', rearrange(x, 'b ... d -> b (...) d') + positions)

    def embed_tokens(self, patches: Array) -> Array:
        """Patches that are cut already to tokens without positions, `[b n p] -> [b n d]`."""
        return self.to_patch_embedding.embed(patches)

    def patch_positions(self, grid: Sequence[int]) -> Array:
        """Positions of the patches alone, `[n d]`."""
        return jnp.asarray(self.positions(*grid))

    def prefix_tokens(self) -> Array:
        """What stands before the patches: nothing, `[0 d]`."""
        return jnp.zeros((0, self.dim), self.param_dtype)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, train=train)

    def classify(self, tokens: Array) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        return self.linear_head(self.tap('to_latent', tokens.mean(axis=1)))

    def __call__(self, images: Array, train: bool = False) -> Array:
        return self.classify(self.encode(self.embed(images, train), train))


class SimpleViTBase(SimpleGridViTBase, ImageGrid, kw_only=True):
    """SimpleGridViTBase of images `[b h w c]`."""

    def positions(self, *grid: int) -> np.ndarray:
        rows, columns = grid
        return sincos_2d(rows, columns, self.dim)


class SimpleGridViT(SimpleGridViTBase, kw_only=True):
    """SimpleGridViTBase with the plain trunk.

    Attributes:
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: compute activations again in the backward pass instead of keeping them.
    """

    scan: bool = False
    remat: bool = False

    def block(self) -> Callable[..., nn.Module]:
        """Constructor of a block of the trunk."""
        return partial(Block, attention=self.attention(), feedforward=self.feedforward())

    def trunk(self) -> nn.Module:
        norm = partial(LayerNorm, **self.precision)
        return Transformer(self.depth, self.block(), norm, scan=self.scan, remat=self.remat)


class SimpleViT(SimpleGridViT, SimpleViTBase, kw_only=True):
    """Simple ViT (arXiv:2205.01580): images `[b h w c]` to logits `[b num_classes]`."""


MODEL = Model(
    SimpleViT,
    title='Better plain ViT baselines for ImageNet-1k',
    arxiv='2205.01580',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
