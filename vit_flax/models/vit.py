"""An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, arXiv:2010.11929.

vit-pytorch's `vit`: the image is cut into patches, each becomes a token, and a transformer encoder
reads them together with a class token. It differs from the paper's ViT in the patch embedding
(LayerNorm before and after the projection), in queries, keys and values without bias, and in
positions drawn from N(0, 1).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer, normal

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_choice
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, repeat
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, FeedForward, Remat, Transformer
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard


class NormedHead(Module):
    """LayerNorm, Linear, `[b d] -> [b num_classes]`."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Dense(self.num_classes, **self.precision, name='linear')(LayerNorm(**self.precision, name='norm')(x))

    torch_names = {'norm': '0', 'linear': '1'}


class ViTBase(Backbone, kw_only=True):
    """ViT of any grid of patches; a model adds the arguments of its grid, and overrides what it changes.

    An input with fewer patches than the model is built for takes the first rows of the position table, as
    upstream does; `vit_flax.resize_position_embedding` moves the table to another grid instead.

    Attributes:
      num_classes: width of the logits; 0 returns the encoded tokens `[b n dim]` instead.
      dim: width of a token.
      depth: number of blocks.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      channels: of the input.
      dim_head: width of one head.
      dropout: rate after each projection and on the attention maps.
      emb_dropout: rate on the embedded tokens.
      norm_in_head: the last norm follows the pooling, and there is a class token even if the average is pooled.

    Raises:
      ValueError: patches do not tile the input, an input of another layout, or larger than the
        position table.
    """

    num_classes: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    channels: int = 3
    dim_head: int = 64
    dropout: float = 0.0
    emb_dropout: float = 0.0

    norm_in_head: ClassVar[bool] = False
    can_embed_patches = can_drop_tokens = True

    # what only some models have as an argument
    pool = 'cls'
    scan = False
    remat = cast(Remat, False)

    @property
    def num_cls_tokens(self) -> int:
        return 1

    @property
    def num_prefix_positions(self) -> int:
        """Rows of the position table before those of the patches."""
        return self.num_cls_tokens

    @property
    def num_positions(self) -> int:
        """Rows of the position table."""
        return self.num_prefix_positions + self.grid.num_patches

    def setup(self) -> None:
        check_choice('pool', self.pool, ('cls', 'mean'))
        self.to_patch_embedding = self.patch_embedding()
        if self.num_cls_tokens:
            self.cls_token = self.learned_tokens('cls_token', self.num_cls_tokens)
        if self.num_positions:
            self.pos_embedding = self.learned_tokens('pos_embedding', self.num_positions)
        self.embedding_dropout = nn.Dropout(self.emb_dropout)
        self.transformer = self.trunk()
        if self.num_classes > 0:
            self.mlp_head = self.classification_head()

    def learned_tokens(self, name: str, number: int) -> Array:
        """A parameter `[number dim]`."""
        return self.param(name, self.token_init(), (number, self.dim), self.param_dtype)

    def token_init(self) -> Initializer:
        """Initial distribution of learned tokens and positions."""
        return normal(1.0)

    def patch_embedding(self) -> nn.Module:
        """Images to patch tokens, `[b H W c] -> [b h w d]`, likewise with other axes."""
        return PatchEmbedding(self.grid.patch, self.dim, **self.precision)

    def attention(self) -> Callable[..., nn.Module]:
        """Constructor of a block's attention."""
        return partial(Attention, self.heads, self.dim_head, self.dropout, **self.precision)

    def feedforward(self) -> Callable[..., nn.Module]:
        """Constructor of a block's feed-forward network."""
        return partial(FeedForward, self.mlp_dim, self.dropout, **self.precision)

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
        """Images to tokens with positions, class token first, `[b h w c] -> [b n d]`."""
        x = self.patch_tokens(images)
        if self.num_cls_tokens:
            x = self.prepend(self.cls_token, x)
        x = self.embedding_dropout(self.add_positions(x), deterministic=not train)
        return self.tap('embedding', x)

    def patch_tokens(self, images: Array) -> Array:
        """Images to tokens without positions, `[b h w c] -> [b n d]`."""
        self.grid.check(images)
        x = self.to_patch_embedding(images)
        if self.num_positions > self.num_prefix_positions:
            self.grid.warn_of_other_grid(x.shape[1:-1])
        return rearrange(x, 'b ... d -> b (...) d')

    def prepend(self, tokens: Array, x: Array) -> Array:
        """The same learned tokens before every sequence, `[m d], [b n d] -> [b m+n d]`."""
        tokens, x = self.promote(repeat(tokens, 'm d -> b m d', b=x.shape[0]), x)
        return jnp.concatenate([tokens, x], axis=1)

    def add_positions(self, x: Array) -> Array:
        """Tokens plus the first rows of the position table, `[b n d] -> [b n d]`."""
        prefix = self.num_prefix_positions
        self.grid.check_num_positions(x.shape[1] - prefix, self.num_positions - prefix)
        x, positions = self.promote(x, self.pos_embedding)
        return add(x, positions[: x.shape[1]])

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, train=train)

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        """Encoded tokens to the features that the head reads, `[b n d] -> [b d]`."""
        return tokens[:, 0] if self.pool == 'cls' else tokens.mean(axis=1)

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        return self.mlp_head(self.tap('to_latent', self.pool_tokens(tokens, train)))

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
        patches, first = math.prod(shape), self.num_prefix_positions
        if self.num_positions <= first:
            raise ValueError(f'{type(self).__name__} has no position table: its attention encodes the positions')
        self.grid.check_num_positions(patches, self.num_positions - first)
        self.grid.warn_of_other_grid(shape)
        return self.pos_embedding[first : first + patches]

    def prefix_tokens(self) -> Array:
        """The tokens before the patches with their positions, `[m d]`: the class token, if there is one."""
        if not self.num_cls_tokens:
            return jnp.zeros((0, self.dim), self.param_dtype)
        if not (self.num_prefix_positions and self.num_positions):
            return self.cls_token
        return self.cls_token + self.pos_embedding[: self.num_prefix_positions]

    # What the model declares of itself.

    @property
    def head(self) -> tuple[str, ...]:
        return ('mlp_head/linear',) if self.norm_in_head else ('mlp_head',)

    @property
    def layout(self) -> str:
        return self.grid.layout

    @property
    def num_prefix_tokens(self) -> int:
        return self.num_cls_tokens

    def position_tables(self) -> dict[str, PositionTable]:
        if not self.num_positions:
            return {}
        prefix, patches = self.num_prefix_positions, self.grid.num_patches
        return {'pos_embedding': PositionTable(self.grid.shape, prefix, self.num_positions - prefix - patches)}


class ViT(ViTBase, kw_only=True):
    """Vision Transformer (arXiv:2010.11929): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      pool: 'cls' classifies the class token, 'mean' the average token (there is no class token then).
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    pool: str = 'cls'
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_cls_tokens(self) -> int:
        return 1 if self.pool == 'cls' else 0

    # upstream: without a class token the state dict still holds one, of no rows.
    torch_only = {'cls_token': lambda model: None if model.num_cls_tokens else np.zeros((0, model.dim), np.float32)}


# Most variants of vit-pytorch have learned tokens and positions with a batch axis.
BATCH_AXES: dict[str, Any] = {
    'cls_token': ('cls_token', UnitAxes((0,))),
    'pos_embedding': ('pos_embedding', UnitAxes((0,))),
}


def published_size(patch_size: int, dim: int, depth: int, heads: int, image_size: int = 224) -> dict:
    """Keyword arguments of the paper's sizes: four times as wide inside, heads share the width."""
    return dict(
        image_size=image_size,
        patch_size=patch_size,
        num_classes=1000,
        dim=dim,
        depth=depth,
        heads=heads,
        dim_head=dim // heads,
        mlp_dim=4 * dim,
    )


CARD = ModelCard(
    ViT,
    title='An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale',
    arxiv='2010.11929',
    takes='image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
    presets={
        'vit_tiny_patch16_224': published_size(16, 192, 12, 3),
        'vit_small_patch16_224': published_size(16, 384, 12, 6),
        'vit_small_patch32_224': published_size(32, 384, 12, 6),
        'vit_base_patch16_224': published_size(16, 768, 12, 12),
        'vit_base_patch32_224': published_size(32, 768, 12, 12),
        'vit_base_patch16_384': published_size(16, 768, 12, 12, image_size=384),
        'vit_large_patch16_224': published_size(16, 1024, 24, 16),
        'vit_large_patch32_224': published_size(32, 1024, 24, 16),
        'vit_huge_patch14_224': published_size(14, 1280, 32, 16),
        # arXiv:2106.04560
        'vit_giant_patch14_224': {**published_size(14, 1408, 40, 16), 'mlp_dim': 6144},
        # the size of arXiv:2302.05442, which also norms queries and keys and has parallel layers
        'vit_22b_patch14_224': published_size(14, 6144, 48, 48),
    },
)
