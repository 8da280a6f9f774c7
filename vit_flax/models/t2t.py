"""Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet, arXiv:2101.11986.

vit-pytorch's `t2t`: tokens are made in steps, each of which joins overlapping neighbourhoods to
longer vectors and, but for the last, sends them through a transformer of one layer and one head.
A linear map to the model's width follows, and from there it is a ViT; any transformer will do.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_choice, check_images, pair
from vit_flax.blocks.class_token import ClassTokenAndPositions
from vit_flax.blocks.grids import TokenGrid
from vit_flax.blocks.kernels.pooling import pooled_length
from vit_flax.blocks.kernels.unfold import unfold
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, FeedForward, Remat, Transformer
from vit_flax.card import ModelCard


class TokensToToken(Module):
    """The steps of `layers`, `[b H W c] -> [b h w dim]`."""

    layers: Sequence[tuple[int, int]]
    dim: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = images
        for i, (kernel_size, stride) in enumerate(self.layers):
            x = unfold(x, kernel_size, stride, stride // 2)
            _, rows, _, width = x.shape
            if i < len(self.layers) - 1:
                block = partial(
                    Block,
                    attention=partial(Attention, 1, width, self.dropout, **self.precision),
                    feedforward=partial(FeedForward, width, self.dropout, **self.precision),
                )
                transformer = Transformer(1, block, partial(LayerNorm, **self.precision), name=f'transformer_{i}')
                x = rearrange(x, 'b h w d -> b (h w) d')
                x = rearrange(transformer(x, train=train), 'b (h w) d -> b h w d', h=rows)
            else:
                x = Dense(self.dim, **self.precision, name=f'projection_{i}')(x)
        return x

    torch_names = {'transformer_{i}': '{4*i+3}', 'projection_{i}': '{4*i+4}'}


class T2TViT(Backbone, kw_only=True):
    """Tokens-to-Token ViT (arXiv:2101.11986): images `[b h w c]` to logits `[b num_classes]`.

    A smaller image than `image_size` takes the first rows of the position table, as upstream does.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      num_classes: width of the logits.
      dim: width of a token.
      depth: number of blocks; needed without `transformer`, as are `heads` and `mlp_dim`.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      pool: 'cls' classifies the class token, 'mean' the average of all tokens, the class token among them.
      channels: of the images.
      dim_head: width of one head.
      dropout: rate after each projection and on the attention maps.
      emb_dropout: rate on the embedded tokens.
      transformer: a module to use instead of ViT's trunk, called as `transformer(tokens, train=train)`
        with tokens `[b n d]`; for example `vit_flax.transformers.nystromformer.Nystromformer`.
      t2t_layers: size and step of each soft split, whose zero padding is half a step.
      scan: compile one block for all layers of the trunk, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: neither a transformer nor its sizes, unknown pool, images of another layout, too small for
        the soft splits or larger than the position table.
    """

    image_size: int | Sequence[int]
    num_classes: int
    dim: int
    depth: int | None = None
    heads: int | None = None
    mlp_dim: int | None = None
    pool: str = 'cls'
    channels: int = 3
    dim_head: int = 64
    dropout: float = 0.0
    emb_dropout: float = 0.0
    transformer: nn.Module | None = None
    t2t_layers: Sequence[tuple[int, int]] = ((7, 4), (3, 2), (3, 2))
    scan: bool = False
    remat: Remat = False

    def setup(self) -> None:
        check_choice('pool', self.pool, ('cls', 'mean'))
        self.to_patch_embedding = TokensToToken(self.t2t_layers, self.dim, self.dropout, **self.precision)
        self.positions = ClassTokenAndPositions(self._grids()[-1], self.image_size, self.emb_dropout, **self.precision)
        if self.transformer is None:
            self.trunk = self._trunk()
        self.mlp_head = Dense(self.num_classes, **self.precision)

    def _grids(self) -> list[tuple[int, int]]:
        """Rows and columns of the tokens after each soft split."""
        rows, columns = pair(self.image_size, 'image_size')
        grids = []
        for kernel_size, stride in self.t2t_layers:
            rows, columns = (pooled_length(size, kernel_size, stride, stride // 2) for size in (rows, columns))
            if min(rows, columns) < 1:
                raise ValueError(
                    f'image_size={self.image_size} is too small for t2t_layers={self.t2t_layers}: '
                    'a soft split leaves no token of it'
                )
            grids.append((rows, columns))
        return grids

    def _trunk(self) -> nn.Module:
        if self.depth is None or self.heads is None or self.mlp_dim is None:
            raise ValueError(
                f'depth={self.depth}, heads={self.heads} and mlp_dim={self.mlp_dim} must all be given, '
                'or a transformer instead of them'
            )
        block = partial(
            Block,
            attention=partial(Attention, self.heads, self.dim_head, self.dropout, **self.precision),
            feedforward=partial(FeedForward, self.mlp_dim, self.dropout, **self.precision),
        )
        norm = partial(LayerNorm, **self.precision)
        return Transformer(self.depth, block, norm, scan=self.scan, remat=self.remat)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, class token first, `[b h w c] -> [b 1+n d]`."""
        check_images(images, self.channels)
        x = self.to_patch_embedding(images, train)
        return self.tap('embedding', self.positions(x, train))

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        transformer = self.trunk if self.transformer is None else self.transformer
        return transformer(tokens, train=train)

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        x = tokens[:, 0] if self.pool == 'cls' else tokens.mean(axis=1)
        return self.mlp_head(self.tap('to_latent', x))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded tokens without classes."""
        tokens = self.encode(self.embed(images, train), train)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        *splits, last = self.clone(image_size=tuple(lengths), parent=None)._grids()
        return *map(TokenGrid, splits), TokenGrid(last, prefix=1)

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.image_size, 'image_size'), self.channels), jnp.float32)

    torch_names = {'positions': '', 'trunk': 'transformer'}


CARD = ModelCard(
    T2TViT,
    title='Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet',
    arxiv='2101.11986',
    takes='image [b h w c]',
    # T2T-ViT-14
    paper_size=dict(image_size=224, num_classes=1000, dim=384, depth=14, heads=6, mlp_dim=1152),
)
