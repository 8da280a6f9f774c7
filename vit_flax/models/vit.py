"""An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, arXiv:2010.11929.

vit-pytorch's `vit`: the image is cut into patches, each becomes a token, a transformer encoder
reads them together with a class token. It differs from the paper's ViT in the patch embedding
(LayerNorm before and after the projection), in queries, keys and values without bias, and in
positions drawn from N(0, 1).
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.checks import check_choice, check_images, pair, patch_grid
from vit_flax.blocks.feedforward import FeedForward
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, Transformer
from vit_flax.registry import Model


class ViT(Module, kw_only=True):
    """Vision Transformer (arXiv:2010.11929): images `[b h w c]` to logits `[b num_classes]`.

    A smaller image than `image_size` takes the first rows of the position table, as upstream
    does; `vit_flax.resize_position_embedding` moves the table to another grid instead.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      num_classes: width of the logits; 0 returns the encoded tokens `[b n dim]` instead.
      dim: width of a token.
      depth: number of blocks.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      pool: 'cls' classifies the class token, 'mean' the average token (there is no class token then).
      channels: of the images.
      dim_head: width of one head.
      dropout: rate after each projection and on the attention maps.
      emb_dropout: rate on the embedded tokens.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: compute activations again in the backward pass instead of keeping them.

    Raises:
      ValueError: patches do not tile the image, unknown pool, images of another layout, or
        larger than the position table.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_classes: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    pool: str = 'cls'
    channels: int = 3
    dim_head: int = 64
    dropout: float = 0.0
    emb_dropout: float = 0.0
    scan: bool = False
    remat: bool = False

    @property
    def num_cls_tokens(self) -> int:
        return 1 if self.pool == 'cls' else 0

    def setup(self) -> None:
        check_choice('pool', self.pool, ('cls', 'mean'))
        rows, columns = patch_grid(self.image_size, self.patch_size)
        self.to_patch_embedding = PatchEmbedding(self.patch_size, self.dim, **self.precision)
        if self.num_cls_tokens:
            self.cls_token = self.param('cls_token', normal(1.0), (1, self.dim), self.param_dtype)
        self.pos_embedding = self.param(
            'pos_embedding', normal(1.0), (self.num_cls_tokens + rows * columns, self.dim), self.param_dtype
        )
        self.embedding_dropout = nn.Dropout(self.emb_dropout)
        self.transformer = Transformer(
            depth=self.depth,
            block=partial(
                Block,
                attention=partial(
                    Attention, heads=self.heads, dim_head=self.dim_head, dropout=self.dropout, **self.precision
                ),
                feedforward=partial(FeedForward, self.mlp_dim, dropout=self.dropout, **self.precision),
            ),
            norm=partial(LayerNorm, **self.precision),
            scan=self.scan,
            remat=self.remat,
        )
        if self.num_classes > 0:
            self.mlp_head = Dense(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, `[b h w c] -> [b n d]`; a class token comes first."""
        check_images(images, self.channels)
        x = rearrange(self.to_patch_embedding(images), 'b h w d -> b (h w) d')
        if self.num_cls_tokens:
            cls, x = self.promote(repeat(self.cls_token, '1 d -> b 1 d', b=len(x)), x)
            x = jnp.concatenate([cls, x], axis=1)
        tokens, room = x.shape[1], len(self.pos_embedding)
        if tokens > room:
            raise ValueError(
                f'images of shape {images.shape} have {tokens - self.num_cls_tokens} patches, '
                f'image_size={self.image_size} has positions for {room - self.num_cls_tokens}: build the model with '
                'the larger image_size and move the table with vit_flax.resize_position_embedding'
            )
        x, positions = self.promote(x, self.pos_embedding)
        x = self.embedding_dropout(x + positions[:tokens], deterministic=not train)
        return self.tap('embedding', x)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, train=train)

    def classify(self, tokens: Array) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        return self.mlp_head(tokens[:, 0] if self.pool == 'cls' else tokens.mean(axis=1))

    def __call__(self, images: Array, train: bool = False) -> Array:
        tokens = self.encode(self.embed(images, train), train)
        return self.classify(tokens) if self.num_classes > 0 else tokens

    def example_input(self) -> jax.ShapeDtypeStruct:
        """An input that fits, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.image_size), self.channels), jnp.float32)

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
