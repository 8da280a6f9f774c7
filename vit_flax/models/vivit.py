"""ViViT: A Video Vision Transformer, arXiv:2103.15691.

vit-pytorch's `vivit`: attention across space and across time apart, which costs far less than all boxes
of a video at once. The factorised encoder reads each step of time by itself and then the steps; with
factorised self-attention each block does both. Frames can be masked.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_choice, warn_of_other_grid
from vit_flax.blocks.grids import Grid, TokenGrid, video_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, repeat
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, FeedForward, Remat, Transformer
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard


class FactorizedBlock(Module):
    """Attention across space, attention across time, feed-forward, `[b t n d] -> [b t n d]`."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, train: bool = False) -> Array:
        """Args: x `[b t n d]`; mask bool `[b t]`, which time steps may be attended to."""
        _, steps, positions, _ = x.shape
        x = rearrange(x, 'b t n d -> (b t) n d')
        x = x + self.attention(name='spatial_attention')(x, train=train)
        x = rearrange(x, '(b t) n d -> (b n) t d', t=steps)
        keys = None if mask is None else key_mask(jnp.repeat(mask, positions, axis=0))
        x = x + self.attention(name='temporal_attention')(x, keys, train=train)
        x = x + self.feedforward(name='feedforward')(x, train=train)
        return self.tap('block', rearrange(x, '(b n) t d -> b t n d', n=positions))

    torch_names = {'spatial_attention': '0', 'temporal_attention': '1', 'feedforward': '2'}


def key_mask(mask: Array) -> Array:
    """A mask of keys, for all heads and queries, `[b m] -> [b 1 1 m]`."""
    return mask[:, None, None, :]


class ViViTBase(Backbone, kw_only=True):
    """What the models of factorised space and time share: boxes, positions, class token of each step, masks.

    Attributes:
      image_size: height and width of a frame in pixels, or one number for both.
      image_patch_size: height and width of a patch; must divide the frame's.
      frames: of a video.
      frame_patch_size: frames of a patch; must divide the video's.
      num_classes: width of the logits; 0 returns the encoded tokens instead.
      dim: width of a token.
      spatial_depth: blocks across space.
      temporal_depth: blocks across time.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      pool: 'cls' classifies a class token, 'mean' the average.
      channels: of the input.
      dim_head: width of one head.
      dropout: rate after each projection and on the attention maps.
      emb_dropout: rate on the embedded tokens.
      use_flash_attn: upstream's switch; both values compute the same, and the
        implementation is chosen by device and dtype (`blocks.attention.attend`).
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile the video, unknown pool, a video of another layout or larger than the
        position table, a mask of another shape.
    """

    image_size: int | Sequence[int]
    image_patch_size: int | Sequence[int]
    frames: int
    frame_patch_size: int
    num_classes: int
    dim: int
    spatial_depth: int
    temporal_depth: int
    heads: int
    mlp_dim: int
    pool: str = 'cls'
    channels: int = 3
    dim_head: int = 64
    dropout: float = 0.0
    emb_dropout: float = 0.0
    # upstream: the fused path, which is the default, drops attention maps in evaluation too; here none does. Without a
    # class token a video of which no frame is seen gets zeros from that path; here, as on upstream's other, its frames
    # are all seen alike.
    use_flash_attn: bool = True
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        sizes = self.image_size, self.image_patch_size, self.frames, self.frame_patch_size
        return video_grid(*sizes, self.channels)

    def setup(self) -> None:
        check_choice('pool', self.pool, ('cls', 'mean'))
        steps, rows, columns = self.grid.shape
        self.to_patch_embedding = PatchEmbedding(self.grid.patch, self.dim, **self.precision)
        shape = steps, rows * columns, self.dim
        self.pos_embedding = self.param('pos_embedding', normal(1.0), shape, self.param_dtype)
        if self.pool == 'cls':
            self.spatial_cls_token = self.param('spatial_cls_token', normal(1.0), (self.dim,), self.param_dtype)
        self.embedding_dropout = nn.Dropout(self.emb_dropout)

    def attention(self) -> Callable[..., nn.Module]:
        """Constructor of a block's attention."""
        return partial(Attention, self.heads, self.dim_head, self.dropout, **self.precision)

    def feedforward(self) -> Callable[..., nn.Module]:
        """Constructor of a block's feed-forward network."""
        return partial(FeedForward, self.mlp_dim, self.dropout, **self.precision)

    def trunk(self, depth: int, block: Callable[..., nn.Module]) -> Transformer:
        """Blocks and a norm."""
        norm = partial(LayerNorm, **self.precision)
        return Transformer(depth, partial(block, self.attention(), self.feedforward()), norm, self.scan, self.remat)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_embedding': PositionTable(self.grid.shape)}

    def embed(self, video: Array, train: bool = False) -> Array:
        """Videos to boxes with positions, `[b T H W c] -> [b t n d]`; a class token comes first in each step."""
        self.grid.check(video)
        x = self.to_patch_embedding(video)
        warn_of_other_grid(x.shape[2:4], self.grid.shape[1:], self.grid.size)
        x = rearrange(x, 'b t h w d -> b t (h w) d')
        batch, steps, patches, _ = x.shape
        self.grid.check_num_positions(steps, self.grid.shape[0])
        self.grid.check_num_positions(patches, self.grid.shape[1] * self.grid.shape[2])
        x, positions = self.promote(x, self.pos_embedding[:steps, :patches])
        x = add(x, positions)
        if self.pool == 'cls':
            cls, x = self.promote(repeat(self.spatial_cls_token, 'd -> b t 1 d', b=batch, t=steps), x)
            x = jnp.concatenate([cls, x], axis=2)
        return self.tap('embedding', self.embedding_dropout(x, deterministic=not train))

    def seen_steps(self, tokens: Array, mask: Array | None) -> Array | None:
        """Time steps whose frames may all be attended to, `[b T] -> [b t]`."""
        if mask is None:
            return None
        frames = tokens.shape[1] * self.frame_patch_size
        if mask.shape != (tokens.shape[0], frames):
            raise ValueError(f'mask of shape {mask.shape} must be [b t], here {(tokens.shape[0], frames)}')
        return rearrange(jnp.asarray(mask), 'b (t p) -> b t p', p=self.frame_patch_size).all(axis=-1)

    def across_space(self, transformer: nn.Module, tokens: Array, train: bool) -> Array:
        """A transformer on each step by itself, `[b t n d] -> [b t n d]`."""
        x = transformer(rearrange(tokens, 'b t n d -> (b t) n d'), train=train)
        return rearrange(x, '(b t) n d -> b t n d', t=tokens.shape[1])

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        steps, rows, columns = (length // patch for length, patch in zip(lengths, self.grid.patch, strict=True))
        prefix = int(self.pool == 'cls')
        return TokenGrid((rows, columns), prefix), TokenGrid((steps,), prefix)

    @property
    def layout(self) -> str:
        return self.grid.layout

    def __call__(self, video: Array, train: bool = False, mask: Array | None = None) -> Array:
        """Videos to logits.

        Args:
          video: `[b t h w c]`, of as many frames as the model is built for or fewer.
          train: dropout.
          mask: bool `[b t]`, False for frames that temporal attention ignores, such as padding; a step of
            several frames is attended to if all of them may be.
        """
        tokens = self.encode(self.embed(video, train), train, mask)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    torch_names = {
        'pos_embedding': ('pos_embedding', UnitAxes((0,))),
        'spatial_cls_token': ('spatial_cls_token', UnitAxes((0, 1))),
        'temporal_cls_token': ('temporal_cls_token', UnitAxes((0, 1))),
    }


class ViViT(ViViTBase, kw_only=True):
    """Video Vision Transformer (arXiv:2103.15691): `[b t h w c]` to logits `[b num_classes]`.

    Attributes:
      variant: 'factorized_encoder', one trunk across space and then one across time; or
        'factorized_self_attention', blocks of both, `spatial_depth` = `temporal_depth` of them.
    """

    variant: str = 'factorized_encoder'

    def setup(self) -> None:
        check_choice('variant', self.variant, ('factorized_encoder', 'factorized_self_attention'))
        super().setup()
        if self.variant == 'factorized_encoder':
            self.spatial_transformer = self.trunk(self.spatial_depth, Block)
            self.temporal_transformer = self.trunk(self.temporal_depth, Block)
            if self.pool == 'cls':
                self.temporal_cls_token = self.param('temporal_cls_token', normal(1.0), (self.dim,), self.param_dtype)
        else:
            if self.spatial_depth != self.temporal_depth:
                raise ValueError(
                    f'spatial_depth={self.spatial_depth} and temporal_depth={self.temporal_depth} must be the same '
                    'for factorized_self_attention'
                )
            self.factorized_transformer = self.trunk(self.spatial_depth, FactorizedBlock)
        if self.num_classes > 0:
            self.mlp_head = Dense(self.num_classes, **self.precision)

    def encode(self, tokens: Array, train: bool = False, mask: Array | None = None) -> Array:
        """All attention: `[b t n d]` to itself, or to `[b t d]` by the factorised encoder, class token first."""
        seen = self.seen_steps(tokens, mask)
        if self.variant == 'factorized_self_attention':
            return self.factorized_transformer(tokens, seen, train=train)
        x = self.across_space(self.spatial_transformer, tokens, train)
        x = x[:, :, 0] if self.pool == 'cls' else x.mean(axis=2)
        if self.pool == 'cls':
            cls, x = self.promote(repeat(self.temporal_cls_token, 'd -> b 1 d', b=x.shape[0]), x)
            x = jnp.concatenate([cls, x], axis=1)
            seen = None if seen is None else jnp.pad(seen, ((0, 0), (1, 0)), constant_values=True)
        return self.temporal_transformer(x, None if seen is None else key_mask(seen), train=train)

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """Pooled tokens to logits, `[b ... d] -> [b num_classes]`."""
        x = rearrange(tokens, 'b ... d -> b (...) d')
        return self.mlp_head(self.tap('to_latent', x[:, 0] if self.pool == 'cls' else x.mean(axis=1)))


# upstream: its README imports `ViT` from `vivit`, which has no class of that name; here it is another name of ViViT.
ViT = ViViT

CARD = ModelCard(
    ViViT,
    title='ViViT: A Video Vision Transformer',
    arxiv='2103.15691',
    takes='video [b t h w c]',
    paper_size=dict(
        image_size=128,
        frames=16,
        image_patch_size=16,
        frame_patch_size=2,
        num_classes=1000,
        dim=1024,
        spatial_depth=6,
        temporal_depth=6,
        heads=8,
        mlp_dim=2048,
    ),
)
