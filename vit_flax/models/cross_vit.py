"""CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification, arXiv:2103.14899.

vit-pytorch's `cross_vit`: two ViTs read the same image in small and in large patches; after every
few blocks the class token of each attends to the patches of the other. The two classify apart, and
their logits are added.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images, pair, patch_grid
from vit_flax.blocks.class_token import ClassTokenAndPositions
from vit_flax.blocks.grids import TokenGrid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, FeedForward, Remat, Transformer
from vit_flax.card import ModelCard


class Attention(Module):
    """Tokens attend to themselves, and to a context if there is one, `[b n d], [b m d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, train: bool = False) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        # upstream: the context of the cross attention is not normalised, unlike the queries.
        seen = x if context is None else jnp.concatenate(self.promote(x, context), axis=1)
        q = Dense(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = Dense(2 * inner, use_bias=False, **self.precision, name='to_kv')(seen)
        q, k, v = (split_heads(t, self.heads) for t in (q, *jnp.split(kv, 2, axis=-1)))
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        x = Dense(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class ForeignAttention(Module):
    """The same in the width of the context, with projections there and back where the widths differ."""

    attention: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, context: Array, train: bool = False) -> Array:
        """Args: x `[b n c]`; context `[b m d]`. Returns `[b n c]`."""
        here, there = x.shape[-1], context.shape[-1]
        if here == there:
            return self.attention(name='fn')(x, context, train=train)
        x = Dense(there, **self.precision, name='project_in')(x)
        x = self.attention(name='fn')(x, context, train=train)
        return Dense(here, **self.precision, name='project_out')(x)


class CrossBlock(Module):
    """Each class token attends to the other scale's patches; the patches stay."""

    attention: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, class_tokens: tuple[Array, Array], small_patches: Array, large_patches: Array, train: bool = False
    ) -> tuple[Array, Array]:
        """Args: class tokens `[b 1 c]`, `[b 1 d]`; patches `[b n c]`, `[b m d]`."""
        small, large = class_tokens
        attention = partial(ForeignAttention, self.attention, **self.precision)
        small = small + attention(name='small_to_large')(small, large_patches, train=train)
        large = large + attention(name='large_to_small')(large, small_patches, train=train)
        return small, large

    torch_names = {'small_to_large': '0', 'large_to_small': '1'}


class ScaleLayer(Module):
    """An encoder for each scale, then the exchange between their class tokens."""

    small_encoder: Callable[..., nn.Module]
    large_encoder: Callable[..., nn.Module]
    exchange: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, small: Array, large: Array, train: bool = False) -> tuple[Array, Array]:
        small = self.small_encoder(name='small_encoder')(small, train=train)
        large = self.large_encoder(name='large_encoder')(large, train=train)
        class_tokens, patches = (small[:, :1], large[:, :1]), (small[:, 1:], large[:, 1:])
        class_tokens = self.exchange(name='exchange')(class_tokens, *patches, train=train)
        pairs = zip(class_tokens, patches, strict=True)
        small, large = (jnp.concatenate(self.promote(cls, rest), axis=1) for cls, rest in pairs)
        return self.tap('block', small), self.tap('block', large)

    torch_names = {'small_encoder': '0', 'large_encoder': '1', 'exchange': '2'}


class MultiScaleEncoder(Module):
    """`depth` such layers, `[b n c], [b m d] -> [b n c], [b m d]`."""

    depth: int
    layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, small: Array, large: Array, train: bool = False) -> tuple[Array, Array]:
        for i in range(self.depth):
            small, large = self.layer(name=f'layer_{i}')(small, large, train=train)
        return small, large

    torch_names = {'layer_{i}': 'layers.{i}'}


class ImageEmbedder(Module):
    """Images to tokens of one scale, `[b h w c] -> [b 1+n d]`."""

    dim: int
    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        grid = patch_grid(self.image_size, self.patch_size)
        x = PatchEmbedding(self.patch_size, self.dim, **self.precision, name='to_patch_embedding')(images)
        positions = ClassTokenAndPositions(grid, self.image_size, self.dropout, **self.precision, name='positions')
        return self.tap('embedding', positions(x, train))

    torch_names = {'positions': ''}


class CrossViT(Backbone, kw_only=True):
    """Cross-attention multi-scale ViT (arXiv:2103.14899): images `[b h w c]` to logits `[b num_classes]`.

    A smaller image than `image_size` takes the first rows of both position tables, as upstream does.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      num_classes: width of the logits.
      sm_dim, lg_dim: width of a token of the small and of the large patches.
      sm_patch_size, lg_patch_size: height and width of a patch; each must divide the image's.
      sm_enc_depth, lg_enc_depth: blocks of the scale's encoder in each layer.
      sm_enc_heads, lg_enc_heads: their attention heads.
      sm_enc_mlp_dim, lg_enc_mlp_dim: hidden width of their feed-forward networks.
      sm_enc_dim_head, lg_enc_dim_head: width of one of their heads.
      cross_attn_depth: exchanges between the class tokens at the end of each layer.
      cross_attn_heads: attention heads of an exchange.
      cross_attn_dim_head: width of one of them.
      depth: layers of two encoders and their exchange.
      dropout: rate after each projection and on the attention maps.
      emb_dropout: rate on the embedded tokens.
      channels: of the images.
      scan: compile one block for all layers of an encoder, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile the image, images of another layout or larger than a position table.
    """

    image_size: int | Sequence[int]
    num_classes: int
    sm_dim: int
    lg_dim: int
    sm_patch_size: int | Sequence[int] = 12
    sm_enc_depth: int = 1
    sm_enc_heads: int = 8
    sm_enc_mlp_dim: int = 2048
    sm_enc_dim_head: int = 64
    lg_patch_size: int | Sequence[int] = 16
    lg_enc_depth: int = 4
    lg_enc_heads: int = 8
    lg_enc_mlp_dim: int = 2048
    lg_enc_dim_head: int = 64
    cross_attn_depth: int = 2
    cross_attn_heads: int = 8
    cross_attn_dim_head: int = 64
    depth: int = 3
    dropout: float = 0.1
    emb_dropout: float = 0.1
    channels: int = 3
    scan: bool = False
    remat: Remat = False

    head = ('sm_mlp_head', 'lg_mlp_head')
    taps_latent = False

    def setup(self) -> None:
        for name in ('sm_patch_size', 'lg_patch_size'):
            patch_grid(self.image_size, getattr(self, name), name=f'image_size for {name}')
        embedding: dict[str, Any] = dict(image_size=self.image_size, dropout=self.emb_dropout, **self.precision)
        self.sm_image_embedder = ImageEmbedder(self.sm_dim, patch_size=self.sm_patch_size, **embedding)
        self.lg_image_embedder = ImageEmbedder(self.lg_dim, patch_size=self.lg_patch_size, **embedding)

        attention = partial(Attention, dropout=self.dropout, **self.precision)
        stack = partial(Transformer, scan=self.scan, remat=self.remat)

        def encoder(depth: int, heads: int, dim_head: int, mlp_dim: int) -> Callable[..., nn.Module]:
            block = partial(
                Block,
                attention=partial(attention, heads, dim_head),
                feedforward=partial(FeedForward, mlp_dim, dropout=self.dropout, **self.precision),
            )
            return partial(stack, depth, block, norm=partial(LayerNorm, **self.precision))

        self.multi_scale_encoder = MultiScaleEncoder(
            self.depth,
            partial(
                ScaleLayer,
                encoder(self.sm_enc_depth, self.sm_enc_heads, self.sm_enc_dim_head, self.sm_enc_mlp_dim),
                encoder(self.lg_enc_depth, self.lg_enc_heads, self.lg_enc_dim_head, self.lg_enc_mlp_dim),
                partial(
                    stack,
                    self.cross_attn_depth,
                    partial(
                        CrossBlock,
                        partial(attention, self.cross_attn_heads, self.cross_attn_dim_head),
                        **self.precision,
                    ),
                ),
                **self.precision,
            ),
        )
        self.sm_head_norm, self.lg_head_norm = (LayerNorm(**self.precision) for _ in range(2))
        self.sm_mlp_head, self.lg_mlp_head = (Dense(self.num_classes, **self.precision) for _ in range(2))

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to small and large tokens, class tokens first, `[b h w c] -> [b 1+n c], [b 1+m d]`."""
        check_images(images, self.channels)
        return self.sm_image_embedder(images, train), self.lg_image_embedder(images, train)

    def encode(self, tokens: tuple[Array, Array], train: bool = False) -> tuple[Array, Array]:
        """The layers, `([b 1+n c], [b 1+m d]) -> ([b 1+n c], [b 1+m d])`."""
        return self.multi_scale_encoder(*tokens, train)

    def classify(self, tokens: tuple[Array, Array], train: bool = False) -> Array:
        """The sum of both class tokens' logits, `([b 1+n c], [b 1+m d]) -> [b num_classes]`."""
        small, large = tokens
        return self.sm_mlp_head(self.sm_head_norm(small[:, 0])) + self.lg_mlp_head(self.lg_head_norm(large[:, 0]))

    def __call__(self, images: Array, train: bool = False) -> Any:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded tokens without classes."""
        tokens = self.encode(self.embed(images, train), train)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        sizes = pair(self.sm_patch_size, 'sm_patch_size'), pair(self.lg_patch_size, 'lg_patch_size')
        return tuple(TokenGrid((lengths[0] // p, lengths[1] // q), prefix=1) for p, q in sizes)

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.image_size, 'image_size'), self.channels), jnp.float32)

    torch_names = {
        'sm_head_norm': 'sm_mlp_head.0',
        'sm_mlp_head': 'sm_mlp_head.1',
        'lg_head_norm': 'lg_mlp_head.0',
        'lg_mlp_head': 'lg_mlp_head.1',
    }


CARD = ModelCard(
    CrossViT,
    title='CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification',
    arxiv='2103.14899',
    takes='image [b h w c]',
    # CrossViT-S: patches of 12 and 16 of images of which both are a divisor
    paper_size=dict(
        image_size=240,
        num_classes=1000,
        sm_dim=192,
        sm_patch_size=12,
        sm_enc_depth=1,
        sm_enc_heads=6,
        sm_enc_mlp_dim=768,
        sm_enc_dim_head=32,
        lg_dim=384,
        lg_patch_size=16,
        lg_enc_depth=4,
        lg_enc_heads=6,
        lg_enc_mlp_dim=1536,
        lg_enc_dim_head=64,
        cross_attn_depth=1,
        cross_attn_heads=6,
        cross_attn_dim_head=64,
        depth=3,
    ),
)
