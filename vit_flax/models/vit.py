"""An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, arXiv:2010.11929.

vit-pytorch's `vit`: the image is cut into patches, each becomes a token, a transformer encoder
reads them together with a class token. It differs from the paper's ViT in the patch embedding
(LayerNorm before and after the projection), in queries, keys and values without bias, and in
positions drawn from N(0, 1).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer, normal

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.checks import check_choice
from vit_flax.blocks.feedforward import FeedForward
from vit_flax.blocks.grids import Grid, ImageGrid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, repeat
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, Transformer
from vit_flax.registry import Model
from vit_flax.weights.ops import UnitAxes


class GridViTBase(Grid, kw_only=True):
    """All of ViT but its trunk and the axes of its input: patches, class token, positions, head.

    A variant overrides what it changes: `patch_embedding`, `attention`, `feedforward`, `block`,
    `trunk`, `head`, or a stage of the forward pass (`embed`, `encode`, `pool_tokens`, `classify`).
    A smaller input than the model is built for takes the first rows of the position table, as
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
        return self.num_prefix_positions + self.num_patches

    def setup(self) -> None:
        self.to_patch_embedding = self.patch_embedding()
        if self.num_cls_tokens:
            shape = self.num_cls_tokens, self.dim
            self.cls_token = self.param('cls_token', self.token_init(), shape, self.param_dtype)
        if self.num_positions:
            shape = self.num_positions, self.dim
            self.pos_embedding = self.param('pos_embedding', self.token_init(), shape, self.param_dtype)
        self.embedding_dropout = nn.Dropout(self.emb_dropout)
        self.transformer = self.trunk()
        if self.num_classes > 0:
            self.mlp_head = self.head()

    def position_tables(self) -> dict[str, PositionTable]:
        if not self.num_positions:
            return {}
        prefix = self.num_prefix_positions
        return {'pos_embedding': PositionTable(self.grid, prefix, self.num_positions - prefix - self.num_patches)}

    def token_init(self) -> Initializer:
        """Initial distribution of learned tokens and positions."""
        return normal(1.0)

    def patch_embedding(self) -> nn.Module:
        """Images to patches, `[b H W c] -> [b h w d]`, likewise with other axes."""
        return PatchEmbedding(self.patch_lengths, self.dim, **self.precision)

    def attention(self) -> Callable[..., nn.Module]:
        """Constructor of a block's attention."""
        return partial(Attention, heads=self.heads, dim_head=self.dim_head, dropout=self.dropout, **self.precision)

    def feedforward(self) -> Callable[..., nn.Module]:
        """Constructor of a block's feed-forward network."""
        return partial(FeedForward, self.mlp_dim, dropout=self.dropout, **self.precision)

    def block(self) -> Callable[..., nn.Module]:
        """Constructor of a block of the trunk."""
        return partial(Block, self.attention(), self.feedforward())

    def trunk(self) -> nn.Module:
        """The transformer, `[b n d] -> [b n d]`."""
        raise NotImplementedError

    def head(self) -> nn.Module:
        """From the pooled token to the logits."""
        return Dense(self.num_classes, **self.precision)

    def embed_patches(self, images: Array) -> Array:
        """Images to tokens, `[b h w c] -> [b n d]`."""
        self.check_input(images)
        x = self.to_patch_embedding(images)
        if self.num_positions > self.num_prefix_positions:
            self.check_places(x.shape[1:-1])
        return rearrange(x, 'b ... d -> b (...) d')

    def embed_tokens(self, patches: Array) -> Array:
        """Patches that are cut already to tokens without positions, `[b n p] -> [b n d]`."""
        return self.to_patch_embedding.embed(patches)

    def patch_positions(self, grid: Sequence[int]) -> Array:
        """Positions of the patches alone, `[n d]`."""
        patches, first = math.prod(grid), self.num_prefix_positions
        if self.num_positions <= first:
            raise ValueError(f'{type(self).__name__} has no table of positions: its attention knows the places')
        self.check_room(patches, self.num_positions - first)
        self.check_places(grid)
        return self.pos_embedding[first : first + patches]

    def prefix_tokens(self) -> Array:
        """What stands before the patches, with its positions, `[m d]`; here the class token, if there is one."""
        if not self.num_cls_tokens:
            return jnp.zeros((0, self.dim), self.param_dtype)
        if not (self.num_prefix_positions and self.num_positions):
            return self.cls_token
        return self.cls_token + self.pos_embedding[: self.num_prefix_positions]

    def prepend(self, tokens: Array, x: Array) -> Array:
        """The same learned tokens in front of every sequence, `[m d], [b n d] -> [b m+n d]`."""
        tokens, x = self.promote(repeat(tokens, 'm d -> b m d', b=x.shape[0]), x)
        return jnp.concatenate([tokens, x], axis=1)

    def add_positions(self, x: Array) -> Array:
        """Tokens plus the first rows of the position table, `[b n d] -> [b n d]`."""
        prefix = self.num_prefix_positions
        self.check_room(x.shape[1] - prefix, self.num_positions - prefix)
        x, positions = self.promote(x, self.pos_embedding)
        return add(x, positions[: x.shape[1]])

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, `[b h w c] -> [b n d]`; a class token comes first."""
        x = self.embed_patches(images)
        if self.num_cls_tokens:
            x = self.prepend(self.cls_token, x)
        x = self.embedding_dropout(self.add_positions(x), deterministic=not train)
        return self.tap('embedding', x)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, train=train)

    def pool_tokens(self, tokens: Array) -> Array:
        """What the head sees, `[b n d] -> [b d]`: here the class token."""
        return tokens[:, 0]

    def classify(self, tokens: Array) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        return self.mlp_head(self.tap('to_latent', self.pool_tokens(tokens)))

    def __call__(self, images: Array, train: bool = False) -> Array:
        tokens = self.encode(self.embed(images, train), train)
        return self.classify(tokens) if self.num_classes > 0 else tokens


class PooledGridViT(GridViTBase, kw_only=True):
    """GridViTBase with a choice of what the head sees.

    Attributes:
      pool: 'cls' classifies the class token, 'mean' the average of all tokens.
    """

    pool: str = 'cls'

    def setup(self) -> None:
        check_choice('pool', self.pool, ('cls', 'mean'))
        super().setup()

    def pool_tokens(self, tokens: Array) -> Array:
        return tokens[:, 0] if self.pool == 'cls' else tokens.mean(axis=1)


class ViTBase(GridViTBase, ImageGrid, kw_only=True):
    """GridViTBase of images `[b h w c]`."""


class PooledViT(PooledGridViT, ViTBase, kw_only=True):
    """PooledGridViT of images `[b h w c]`."""


class ViT(PooledViT, kw_only=True):
    """Vision Transformer (arXiv:2010.11929): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      pool: 'cls' classifies the class token, 'mean' the average token (there is no class token then).
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: compute activations again in the backward pass instead of keeping them.
    """

    scan: bool = False
    remat: bool = False

    @property
    def num_cls_tokens(self) -> int:
        return 1 if self.pool == 'cls' else 0

    def trunk(self) -> nn.Module:
        norm = partial(LayerNorm, **self.precision)
        return Transformer(self.depth, self.block(), norm, scan=self.scan, remat=self.remat)

    # upstream: without a class token the state dict still holds one, of no rows.
    torch_only = {'cls_token': lambda model: None if model.num_cls_tokens else np.zeros((0, model.dim), np.float32)}

    def from_older_torch(self, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """State dicts of vit-pytorch 1.0 to 1.15 in today's names and shapes; others as they are.

        Up to 1.15 class token and positions had a batch axis. Up to 1.2 each layer was wrapped
        in a PreNorm, and the last norm stood in the head, behind the pooling, which for a class
        token is the same. Before 1.0 patches were not normalised: another model.
        """
        names = {name: name for name in state_dict}
        for pattern, replacement in OLDER_NAMES:
            names = {old: re.sub(pattern, replacement, name) for old, name in names.items()}
        older = any(old != name for old, name in names.items())
        if older and 'to_patch_embedding.2.weight' not in state_dict:
            raise ValueError(
                'the state dict is of vit-pytorch before 1.0, whose patches are not normalised: '
                'this ViT cannot compute the same'
            )
        if older and self.pool == 'mean':
            raise ValueError(
                "the state dict is of vit-pytorch before 1.3 (the head holds the last norm): with pool='mean' it "
                'averages before that norm and keeps a class token, which this ViT does not'
            )
        batched = {'cls_token', 'pos_embedding'}
        return {
            names[old]: array[0] if old in batched and array.ndim == 3 and len(array) == 1 else array
            for old, array in state_dict.items()
        }


# Module names up to vit-pytorch 1.2, in the order in which they are to be replaced.
OLDER_NAMES = (
    (r'^transformer\.layers\.(\d+)\.0\.fn\.', r'transformer.layers.\1.0.'),
    (r'^transformer\.layers\.(\d+)\.1\.norm\.', r'transformer.layers.\1.1.net.0.'),
    (r'^transformer\.layers\.(\d+)\.1\.fn\.net\.3\.', r'transformer.layers.\1.1.net.4.'),
    (r'^transformer\.layers\.(\d+)\.1\.fn\.net\.0\.', r'transformer.layers.\1.1.net.1.'),
    (r'^mlp_head\.0\.', 'transformer.norm.'),
    (r'^mlp_head\.1\.', 'mlp_head.'),
)


# The state dicts of the older variants have learned tokens and positions with a batch axis.
BATCH_AXES: dict[str, Any] = {
    'cls_token': ('cls_token', UnitAxes((0,))),
    'pos_embedding': ('pos_embedding', UnitAxes((0,))),
}


class NormedHead(Module):
    """LayerNorm, Linear, `[b d] -> [b num_classes]`."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Dense(self.num_classes, **self.precision, name='linear')(LayerNorm(**self.precision, name='norm')(x))

    torch_names = {'norm': '0', 'linear': '1'}


class HeadNormGridViT(GridViTBase, kw_only=True):
    """What most variants start from: a class token even if the average is pooled, and the last norm in the head.

    Attributes:
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: compute activations again in the backward pass instead of keeping them.
    """

    scan: bool = False
    remat: bool = False

    def trunk(self) -> nn.Module:
        return Transformer(self.depth, self.block(), scan=self.scan, remat=self.remat)

    def head(self) -> nn.Module:
        return NormedHead(self.num_classes, **self.precision)

    torch_names = BATCH_AXES


class HeadNormViT(HeadNormGridViT, PooledViT, kw_only=True):
    """HeadNormGridViT of images `[b h w c]`."""


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


MODEL = Model(
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
    },
)
