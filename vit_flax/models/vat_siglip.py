"""VAT (arXiv:2512.06013) on a SigLIP (arXiv:2303.15343); upstream module `vat_siglip`.

vit-pytorch's `vat_siglip`: the ViT whose layers the action tokens attend to is the image encoder of SigLIP, of
which there are published weights: no class token, no norm of the patches, queries, keys and values with bias, GELU
in its tanh form, a smaller epsilon. The blocks of the actions are of the same kind.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchProjection
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add
from vit_flax.blocks.torch_like import Dense, LayerNorm, gelu_tanh
from vit_flax.blocks.transformer import Block, Remat, Transformer
from vit_flax.card import ModelCard
from vit_flax.models import vat
from vit_flax.models.vat import ImageActionTransformer

CHANNELS = 3


class GatedAttention(vat.Attention):
    """VAT's attention with bias in all projections and an output projection always."""

    # upstream: the maps are never dropped, unlike those of `vat`.
    @property
    def map_dropout(self) -> float:
        return 0.0

    def project(self, features: int, name: str) -> nn.Module:
        return Dense(features, **self.precision, name=name)

    def projects(self, dim: int) -> bool:
        return True

    torch_names = {'context_norm': 'norm_context'}


class Attention(GatedAttention):
    """The same without gates."""

    def gates(self, x: Array) -> float:
        return 1.0


class FeedForward(Module):
    """LayerNorm, Linear, GELU in its tanh form, Linear, `[... d] -> [... d]`."""

    hidden_dim: int
    norm: Callable[..., Any] = LayerNorm

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        hidden = Dense(self.hidden_dim, **self.precision, name='expand')(self.norm(**self.precision, name='norm')(x))
        return Dense(x.shape[-1], **self.precision, name='contract')(gelu_tanh(hidden))

    torch_names = {'norm': '0', 'expand': '1', 'contract': '3'}


class SigLIP(Backbone):
    """Image encoder of SigLIP (arXiv:2303.15343): images `[b h w 3]` to tokens `[b n dim]`.

    A smaller image than `image_size` takes the first rows of the position table, as upstream does;
    `vit_flax.resize_position_embedding` moves the table to another grid instead.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      dim: width of a token.
      depth: number of blocks.
      heads: attention heads in each block, which share the width.
      mlp_dim: hidden width of the feed-forward networks.
      norm_eps: of all norms.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile the image, images of another layout or larger than the position table.
    """

    image_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 14
    dim: int = 1152
    depth: int = 27
    heads: int = 16
    mlp_dim: int = 4304
    norm_eps: float = 1e-6
    scan: bool = False
    remat: Remat = False

    head = ()
    taps_latent = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, CHANNELS)

    def setup(self) -> None:
        self.to_patch_embed = PatchProjection(self.patch_size, self.dim, **self.precision)
        self.pos_embed = self.param('pos_embed', normal(1.0), (self.grid.num_patches, self.dim), self.param_dtype)
        norm = partial(LayerNorm, epsilon=self.norm_eps)
        block = partial(
            Block,
            partial(Attention, self.heads, self.dim // self.heads, norm=norm, **self.precision),
            partial(FeedForward, self.mlp_dim, norm, **self.precision),
        )
        last_norm = partial(norm, **self.precision)
        self.transformer = Transformer(self.depth, block, last_norm, scan=self.scan, remat=self.remat)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, `[b h w 3] -> [b n d]`."""
        self.grid.check(images)
        x = self.to_patch_embed(images)
        self.grid.warn_of_other_grid(x.shape[1:3])
        x = rearrange(x, 'b h w d -> b (h w) d')
        self.grid.check_num_positions(x.shape[1])
        x, positions = self.promote(x, self.pos_embed)
        return self.tap('embedding', add(x, positions[: x.shape[1]]))

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, train=train)

    def __call__(self, x: Array, train: bool = False, return_hiddens: bool = False) -> Any:
        """Images to tokens.

        Args:
          x: images `[b h w 3]`.
          train: without effect, there is no dropout.
          return_hiddens: return what entered each block `[depth b n d]`, too.
        """
        return self.transformer(self.embed(x, train), train=train, return_hiddens=return_hiddens)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_embed': PositionTable(self.grid.shape)}

    torch_names = {'transformer/norm': 'norm', 'transformer': ''}


class SigLIPVAT(ImageActionTransformer, kw_only=True):
    """VAT on a SigLIP: images or videos to actions `[b action_chunk_len dim_action]`.

    Attributes:
      siglip_image_size, siglip_patch_size, siglip_dim, siglip_depth: those of its `SigLIP`, named `vit`.
      siglip_heads, siglip_mlp_dim, siglip_norm_eps: likewise.

    Raises:
      ValueError: as for `VAT`.
    """

    dim: int = 512
    depth: int = 27
    heads: int = 8
    dim_head: int = 64
    dim_action: int = 32
    mlp_dim: int = 2048
    num_views: int | None = 1
    action_chunk_len: int = 50
    siglip_image_size: int | Sequence[int] = 224
    siglip_patch_size: int | Sequence[int] = 14
    siglip_dim: int = 1152
    siglip_depth: int = 27
    siglip_heads: int = 16
    siglip_mlp_dim: int = 4304
    siglip_norm_eps: float = 1e-6

    def build_vision(self, **settings: Any) -> SigLIP:
        sizes = {name.removeprefix('siglip_'): getattr(self, name) for name in SIGLIP_SIZES}
        return SigLIP(**sizes, scan=self.scan, remat=self.remat, **settings)

    def layers_of(self, name: str, model: Any, indices: Sequence[int] | None) -> np.ndarray:
        # upstream: a SigLIP of another depth is not refused, unlike in `vat`: its first layers are read.
        return super().layers_of(name, model, range(self.depth) if indices is None else indices)

    def branches(self) -> tuple[Callable[..., nn.Module] | None, ...]:
        norm = partial(LayerNorm, epsilon=1e-6)
        settings: dict[str, Any] = dict(dropout=self.dropout, norm=norm, **self.precision)
        across = partial(GatedAttention, self.heads, self.dim_head, **settings)
        among = partial(Attention, self.self_attn_heads, self.self_attn_dim_head, **settings)
        feedforward = partial(FeedForward, self.mlp_dim, norm, **self.precision)
        return across, feedforward, among if self.add_self_attn else None, self.film()

    def check_views(self, views: int) -> None:
        # upstream: one view where there are several is not refused, unlike in `vat`: it gets the embedding of each.
        if views != 1:
            super().check_views(views)


SIGLIP_SIZES = tuple(name for name in SigLIPVAT.__dataclass_fields__ if name.startswith('siglip_'))

CARD = ModelCard(
    SigLIPVAT,
    title='VAT: Vision Action Transformer by Unlocking Full Representation of ViT',
    arxiv='2512.06013',
    takes='images or video of several views [b v t h w c]',
    # upstream's example: the SigLIP of 400 million parameters, and four blocks
    paper_size=dict(
        depth=4,
        num_views=2,
        num_tasks=4,
        dim_extra_token=32,
        time_seq_len=2,
        vit_layer_indices=(0, 1, 26, 27),
    ),
)
