"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580.

vit-pytorch's `simple_vit`: a ViT with fixed 2-d sine-cosine positions, the average token
instead of a class token, one linear layer as head, and no dropout.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from vit_flax.blocks.attention import SimpleAttention
from vit_flax.blocks.checks import check_images, pair, patch_grid
from vit_flax.blocks.feedforward import SimpleFeedForward
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.positions import sincos_2d
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, Transformer
from vit_flax.models.vit import published_size
from vit_flax.registry import Model


class SimpleViT(Module, kw_only=True):
    """Simple ViT (arXiv:2205.01580): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both; an image of another size
        takes the table of positions of its own grid.
      patch_size: height and width of a patch; must divide the image's.
      num_classes: width of the logits.
      dim: width of a token, a multiple of 4.
      depth: number of blocks.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      channels: of the images.
      dim_head: width of one head.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: compute activations again in the backward pass instead of keeping them.

    Raises:
      ValueError: patches do not tile the image, dim is not a multiple of 4, or images of
        another layout.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_classes: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    channels: int = 3
    dim_head: int = 64
    scan: bool = False
    remat: bool = False

    def setup(self) -> None:
        patch_grid(self.image_size, self.patch_size)
        self.to_patch_embedding = PatchEmbedding(self.patch_size, self.dim, **self.precision)
        self.transformer = Transformer(
            depth=self.depth,
            block=partial(
                Block,
                attention=partial(SimpleAttention, self.heads, self.dim_head, **self.precision),
                feedforward=partial(SimpleFeedForward, self.mlp_dim, **self.precision),
            ),
            norm=partial(LayerNorm, **self.precision),
            scan=self.scan,
            remat=self.remat,
        )
        self.linear_head = Dense(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, `[b h w c] -> [b n d]`."""
        check_images(images, self.channels)
        x = self.to_patch_embedding(images)
        _, rows, columns, dim = x.shape
        positions = sincos_2d(rows, columns, dim).astype(x.dtype)
        return self.tap('embedding', rearrange(x, 'b h w d -> b (h w) d') + positions)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, train=train)

    def classify(self, tokens: Array) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        return self.linear_head(tokens.mean(axis=1))

    def __call__(self, images: Array, train: bool = False) -> Array:
        return self.classify(self.encode(self.embed(images, train), train))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """An input that fits, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.image_size), self.channels), jnp.float32)


MODEL = Model(
    SimpleViT,
    title='Better plain ViT baselines for ImageNet-1k',
    arxiv='2205.01580',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
