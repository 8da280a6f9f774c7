"""Learning to Merge Tokens in Vision Transformers, arXiv:2202.12015.

vit-pytorch's `vit_with_patch_merger`: a ViT that half-way pools its tokens into a few, by
attention of learned queries, so that the second half is cheap. It has no class token: the average
is classified.
"""

from collections.abc import Callable, Sequence
from functools import partial

from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.torch_like import LayerNorm
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase, published_size


class PatchMerger(Module):
    """Learned queries attend to the tokens, `[b n d] -> [b num_tokens_out d]`.

    Attributes:
      dim: width of a token.
      num_tokens_out: how many tokens come out.
    """

    dim: int
    num_tokens_out: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f'expected tokens [b n d] of width dim={self.dim}, got shape {x.shape}')
        queries = self.param('queries', normal(1.0), (self.num_tokens_out, self.dim), self.param_dtype)
        x, queries = self.promote(LayerNorm(**self.precision, name='norm')(x), queries)
        tokens = rearrange(x, 'b n d -> b 1 n d')
        merged = attend(self, repeat(queries, 'm d -> b 1 m d', b=x.shape[0]), tokens, tokens, scale=self.dim**-0.5)
        return rearrange(merged, 'b 1 m d -> b m d')


class MergingTransformer(Module):
    """`depth` blocks and a norm, with a merger after the block number `merge_layer`, counted from 1."""

    depth: int
    block: Callable[..., nn.Module]
    merger: Callable[..., nn.Module]
    merge_layer: int
    scan: bool
    remat: Remat

    @property
    def depths(self) -> tuple[int, int]:
        """Blocks before the merger and after it."""
        merges = 1 <= self.merge_layer <= self.depth
        return (self.merge_layer, self.depth - self.merge_layer) if merges else (self.depth, 0)

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        merge = self.merger(name='patch_merger')
        before, after = (
            Transformer(depth, self.block, scan=self.scan, remat=self.remat, name=name)
            for name, depth in zip(('before', 'after'), self.depths, strict=True)
        )
        x = before(x, train=train)
        # upstream: a trunk of one block never merges, nor does any with patch_merge_layer outside of 1 to depth;
        # the merger is there nevertheless, without effect.
        merged = merge(x)
        x = after(merged if 1 <= self.merge_layer <= self.depth else x, train=train)
        return LayerNorm(**self.precision, name='norm')(x)

    def torch_rows(self) -> dict[str, str]:
        return {'before/block_{i}': 'layers.{i}', 'after/block_{i}': f'layers.{{i+{self.depths[0]}}}'}


class ViT(ViTBase, kw_only=True):
    """ViT with a patch merger (arXiv:2202.12015): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      patch_merge_layer: number of blocks before the merger; None: half of them.
      patch_merge_num_tokens: tokens after it.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    patch_merge_layer: int | None = None
    patch_merge_num_tokens: int = 8
    scan: bool = False
    remat: Remat = False

    # its blocks merge tokens that an objective may ask for
    can_embed_patches = can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_cls_tokens(self) -> int:
        return 0

    @property
    def num_positions(self) -> int:
        # upstream: the position table has a row for a class token that is not there; images with a patch
        # more than image_size has may use it.
        return self.grid.num_patches + 1

    def trunk(self) -> nn.Module:
        return MergingTransformer(
            self.depth,
            self.block(),
            partial(PatchMerger, self.dim, self.patch_merge_num_tokens, **self.precision),
            self.depth // 2 if self.patch_merge_layer is None else self.patch_merge_layer,
            self.scan,
            self.remat,
            **self.precision,
        )

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        return tokens.mean(axis=1)

    torch_names = {**BATCH_AXES, 'mlp_head': 'mlp_head.1'}


CARD = ModelCard(
    ViT,
    title='Learning to Merge Tokens in Vision Transformers',
    arxiv='2202.12015',
    takes='image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
)
