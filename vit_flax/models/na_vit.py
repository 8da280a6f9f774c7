"""Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution, arXiv:2307.06304.

vit-pytorch's `na_vit`: images of any size without resizing, several in one sequence. A token attends
to the tokens of its own image, rows and columns have positions of their own, queries and keys are
normalised, and one learned query for each image pools its tokens.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer, normal

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.dropping import draw_patches
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import HeadRMSNorm
from vit_flax.blocks.patches import patchify
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import repeat, to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import BARE_FEEDFORWARD, Block, FeedForward, Remat, Transformer
from vit_flax.card import ModelCard
from vit_flax.models.vit import published_size
from vit_flax.packing import Lists, Rate, draw_kept_tokens, pack_images, tokens_kept
from vit_flax.packing import group_images_by_max_seq_len as group_images_by_max_seq_len


class FixedBiasNorm(LayerNorm):
    """LayerNorm without bias, in whose place PyTorch's twin keeps zeros.

    Attributes:
      width: of the last axis.
    """

    use_bias: bool = False
    width: int = 0

    torch_names = {'scale': 'gamma'}
    torch_only = {'beta': lambda norm: np.zeros(norm.width, np.float32)}


class PackedAttention(Module):
    """Attention inside of groups of tokens; a subclass says how queries, keys and values are made.

    Attributes:
      norm: constructor of the norm before the queries; takes a name.
    """

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0
    norm: Callable[..., Any] = LayerNorm

    @property
    def scale(self) -> float:
        """Multiplies the scores."""
        return self.dim_head**-0.5

    def project(self, x: Array, context: Array) -> tuple[Array, Array, Array]:
        """Queries of x, keys and values of the context, `[b n d], [b m d] -> [b e n k], 2 x [b e m k]`."""
        raise NotImplementedError

    def finish(self, x: Array, train: bool) -> Array:
        """After the projection, `[b n d] -> [b n d]`."""
        return x

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, context: Array | None = None, train: bool = False) -> Array:
        """Attends to x itself, or to a context.

        Args:
          x: `[b n d]`.
          mask: bool, True where attention is allowed, broadcast to `[b e n m]`.
          context: `[b m d]`, which is not normalised.
          train: dropout.
        """
        dim = x.shape[-1]
        x = self.norm(**self.precision, name='norm')(x)
        q, k, v = self.project(x, x if context is None else context)
        x = merge_heads(attend(self, q, k, v, scale=self.scale, mask=mask, dropout=self.dropout, train=train))
        return self.finish(Dense(dim, use_bias=False, **self.precision, name='to_out')(x), train)


class Attention(PackedAttention):
    """Of `na_vit`: queries and keys have the length sqrt(k), times a learned factor for each channel."""

    @property
    def scale(self) -> float:
        return 1.0

    def project(self, x: Array, context: Array) -> tuple[Array, Array, Array]:
        inner = self.heads * self.dim_head
        q = Dense(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = Dense(2 * inner, use_bias=False, **self.precision, name='to_kv')(context)
        q, k, v = (split_heads(part, self.heads) for part in (q, *jnp.split(kv, 2, axis=-1)))
        return HeadRMSNorm(**self.precision, name='q_norm')(q), HeadRMSNorm(**self.precision, name='k_norm')(k), v

    def finish(self, x: Array, train: bool) -> Array:
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class PackedPatchEmbedding(Module):
    """LayerNorm, Linear, LayerNorm on patches that are cut out already, `[b n (c p q)] -> [b n d]`.

    Attributes:
      width: of a patch.
      dim: of a token.
      norm: constructor of a norm of some width; takes a name.
    """

    width: int
    dim: int
    norm: Callable[..., Callable[..., Any]]

    @nn.compact
    def __call__(self, patches: Array) -> Array:
        x = self.norm(self.width)(**self.precision, name='patch_norm')(patches)
        x = Dense(self.dim, **self.precision, name='projection')(x)
        return self.norm(self.dim)(**self.precision, name='norm')(x)

    torch_names = {'patch_norm': '0', 'projection': '1', 'norm': '2'}


class Head(Module):
    """Norm, Linear without bias, `[... d] -> [... num_classes]`; `norm` is a constructor."""

    num_classes: int
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = self.norm(**self.precision, name='norm')(x)
        return Dense(self.num_classes, use_bias=False, **self.precision, name='linear')(x)

    torch_names = {'norm': '0', 'linear': '1'}


class PackedViTBase(Backbone, kw_only=True):
    """All of NaViT but the kind of its norms and attentions and the axes of its input.

    Attributes:
      num_classes: width of the logits.
      dim: width of a token.
      depth: number of blocks.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      channels: of the input.
      dim_head: width of one head.
      dropout: rate after each projection and on the attention maps.
      emb_dropout: rate on the embedded tokens.
      token_dropout_prob: share of an image's patches that is left out in training, in [0, 1), or a function
        of its lengths in pixels that gives the share. `pack` leaves them out; of a plain batch the model
        itself does, with the rng `mask`.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile `image_size` or the input, an input of another layout, or one with
        more patches along an axis than there are positions.
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
    token_dropout_prob: Rate | None = None
    scan: bool = False
    remat: Remat = False

    # names of the position tables, one for each axis of the grid
    axes: ClassVar[tuple[str, ...]] = ('height', 'width')

    head = ('mlp_head/linear',)
    taps_latent = False

    @property
    def layout(self) -> str:
        return self.grid.layout

    def position_tables(self) -> dict[str, PositionTable]:
        return {
            f'pos_embed_{axis}': PositionTable((rows,)) for axis, rows in zip(self.axes, self.grid.shape, strict=True)
        }

    def setup(self) -> None:
        rate = self.token_dropout_prob
        if rate is not None and not callable(rate) and not 0 <= rate < 1:
            raise ValueError(f'token_dropout_prob={rate} must be at least 0 and below 1')
        width = self.grid.patch_dim
        self.to_patch_embedding = PackedPatchEmbedding(width, self.dim, self.patch_norm, **self.precision)
        self.pos_embeds = [
            self.param(f'pos_embed_{axis}', self.position_init(), (rows, self.dim), self.param_dtype)
            for axis, rows in zip(self.axes, self.grid.shape, strict=True)
        ]
        self.embedding_dropout = nn.Dropout(self.emb_dropout)
        self.transformer = self.trunk()
        self.attn_pool_queries = self.param('attn_pool_queries', normal(1.0), (self.dim,), self.param_dtype)
        self.attn_pool = self.pool_attention()(**self.precision)
        self.mlp_head = Head(self.num_classes, self.norm(self.dim), **self.precision)

    def norm(self, width: int) -> Callable[..., Any]:
        """Constructor of a norm of tokens of this width."""
        raise NotImplementedError

    def patch_norm(self, width: int) -> Callable[..., Any]:
        """Constructor of a norm in the patch embedding."""
        return self.norm(width)

    def attention(self) -> Callable[..., nn.Module]:
        """Constructor of a block's attention, and of the last one but for its dropout."""
        raise NotImplementedError

    def pool_attention(self) -> Callable[..., nn.Module]:
        """Constructor of the attention pooling."""
        return self.attention()

    def position_init(self) -> Initializer:
        """Initial distribution of positions."""
        return normal(1.0)

    def trunk(self) -> nn.Module:
        """The transformer, `[b n d] -> [b n d]`."""
        norm = self.norm(self.dim)
        attention = partial(self.attention(), dropout=self.dropout, **self.precision)
        feedforward = partial(FeedForward, self.mlp_dim, dropout=self.dropout, norm=norm, **self.precision)
        block = partial(Block, attention, feedforward)
        return Transformer(self.depth, block, partial(norm, **self.precision), scan=self.scan, remat=self.remat)

    def tokens_kept(self, tokens: int, rate: float) -> int:
        """How many of an image's patches stay in training, at least one."""
        return tokens_kept(tokens, rate)

    def pack(
        self,
        images: Lists,
        train: bool = False,
        rng: np.random.Generator | int | None = None,
        kept_tokens: Sequence[Any] | None = None,
        **packing: Any,
    ) -> dict[str, np.ndarray]:
        """`pack_images` with this model's patches, channels, positions and token dropping; runs on the host.

        Args:
          images: `[h w c]` arrays, channels last, or lists of them, one for each row.
          train: leave patches out, if the model has a `token_dropout_prob`.
          rng: a numpy generator or a seed, for that.
          kept_tokens: the draw itself, for each image the patches that stay.
          **packing: further arguments of `pack_images`: `max_tokens`, `lengths`, `rows`, ...

        Returns:
          Keyword arguments of the call: `model.apply(variables, **model.pack(images))`.
        """
        if kept_tokens is None and train and self.token_dropout_prob:
            if rng is None:
                raise ValueError('rng=None must be a numpy generator or a seed when tokens are dropped')
            kept_tokens = draw_kept_tokens(rng, images, self.grid.patch, self.token_dropout_prob, self.tokens_kept)
        return pack_images(
            images,
            self.grid.patch,
            kept_tokens=kept_tokens,
            channels=self.channels,
            grid=self.grid.shape,
            **packing,
        )

    def cut(self, images: Array, train: bool, kept_tokens: Array | None) -> tuple[Array, Array]:
        """A batch of images of one size to patches and their positions, each image a row of its own."""
        self.grid.check(images)
        patches = patchify(images, self.grid.patch)
        steps = patches.shape[1:-1]
        for axis, step, most in zip(self.axes, steps, self.grid.shape, strict=True):
            if step > most:
                raise ValueError(
                    f'the inputs have {step} patches along their {axis}, {self.grid.size} has positions for {most}'
                )
        patches = rearrange(patches, 'b ... (p c) -> b (...) (c p)', c=self.channels)
        positions = jnp.broadcast_to(np.indices(steps).reshape(len(steps), -1).T, (*patches.shape[:2], len(steps)))
        if kept_tokens is None and train and self.token_dropout_prob:
            rate = self.token_dropout_prob
            rate = rate(*images.shape[1:-1]) if callable(rate) else rate
            tokens = patches.shape[1]
            shuffled = draw_patches(self.make_rng('mask'), patches.shape[0], tokens, 0.0)
            kept_tokens = shuffled[:, : self.tokens_kept(tokens, rate)]
        if kept_tokens is not None:
            patches, positions = (jnp.take_along_axis(x, kept_tokens[..., None], axis=1) for x in (patches, positions))
        return patches, positions

    def patch_tokens(self, patches: Array, positions: Array) -> Array:
        """Patches to tokens with positions, `[b n (c p q)], [b n 2] -> [b n d]`."""
        x = self.to_patch_embedding(patches)
        for axis, table in enumerate(self.pos_embeds):
            x, table = self.promote(x, table)
            # a position that is not in the table must not pass for the last one
            x = x + to_float32(table).at[positions[..., axis]].get(mode='fill', fill_value=jnp.nan).astype(x.dtype)
        return x

    def add_prefix(self, x: Array, slots: int) -> Array:
        """Tokens that are no patches in front of those that are, `[b n d] -> [b n d]`: here none."""
        return x

    def stop_gradients(self, x: Array) -> Array:
        """Stops gradients in some variants."""
        return x

    def embed(
        self,
        patches: Array,
        train: bool = False,
        positions: Array | None = None,
        slots: int = 1,
        kept_tokens: Array | None = None,
    ) -> Array:
        """Packed patches, or images of one size, to tokens with positions, `[b n (c p q)] -> [b n d]`.

        Args:
          patches: what `pack_images` makes of images; without `positions` images `[b h w c]`.
          train: dropout.
          positions: row and column of each patch, `[b n 2]`.
          slots: images in a row.
          kept_tokens: of images, as for the call.
        """
        if positions is None:
            patches, positions = self.cut(patches, train, kept_tokens)
        x = self.stop_gradients(self.add_prefix(self.patch_tokens(patches, positions), slots))
        return self.tap('embedding', self.embedding_dropout(x, deterministic=not train))

    def token_ids(self, image_ids: Array, slots: int) -> Array:
        """The slot of each token that `embed` makes, `[b n] -> [b n]`."""
        return image_ids

    def encode(self, tokens: Array, train: bool = False, ids: Array | None = None) -> Array:
        """The transformer, `[b n d] -> [b n d]`; tokens attend to those with the same id, `[b n]`."""
        # padding attends to padding: no row of a map is without a key
        mask = None if ids is None else ids[:, None, :, None] == ids[:, None, None, :]
        return self.transformer(tokens, mask, train=train)

    def pool_tokens(self, tokens: Array, train: bool = False, ids: Array | None = None, slots: int = 1) -> Array:
        """One vector for each slot, `[b n d] -> [b i d]`."""
        (queries,) = self.promote(self.stop_gradients(self.attn_pool_queries))
        queries = repeat(queries, 'd -> b i d', b=tokens.shape[0], i=slots)
        mask = None
        if ids is not None:
            mask = jnp.arange(slots)[:, None] == ids[:, None, None, :]
            # an empty slot reads everything: no row of a map is without a key
            mask = mask | ~mask.any(axis=-1, keepdims=True)
        return self.join_pooled(self.attn_pool(queries, mask, tokens), queries)

    def join_pooled(self, pooled: Array, queries: Array) -> Array:
        """The pooled vectors and the queries, `2 x [b i d] -> [b i d]`."""
        return pooled

    def classify(self, tokens: Array, train: bool = False, ids: Array | None = None, slots: int = 1) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b i num_classes]`."""
        return self.mlp_head(self.pool_tokens(tokens, train, ids, slots))

    def __call__(
        self,
        patches: Array,
        positions: Array | None = None,
        image_ids: Array | None = None,
        slots: Array | None = None,
        train: bool = False,
        kept_tokens: Array | None = None,
    ) -> Array:
        """Packed images to logits: `model.apply(variables, **model.pack(images))`.

        Args:
          patches: `[b n d]`, as from `pack_images`; or, without the next three, a batch of images of one
            size `[b h w c]`.
          positions: int `[b n 2]`.
          image_ids: int `[b n]`, the slot of the image that a patch is of; -1 in padding.
          slots: int `[b i]`, which image of the list is in each slot; -1 in an empty one.
          train: dropout; of a batch of images patches are left out too.
          kept_tokens: int `[b kept]`, which patches of a batch of images are read; drawn from the rng `mask`
            when training and left out here. Packed images have lost theirs already.

        Returns:
          `[b i num_classes]`, zeros in empty slots; `from_slots` brings them into the list's order. Of a batch
          of images `[b num_classes]`.
        """
        packed = [array is not None for array in (positions, image_ids, slots)]
        if any(packed) and (not all(packed) or kept_tokens is not None):
            raise ValueError('patches need positions, image_ids and slots, all from pack_images, and no kept_tokens')
        if positions is None or image_ids is None or slots is None:
            tokens = self.encode(self.embed(patches, train, kept_tokens=kept_tokens), train)
            return self.classify(tokens, train)[:, 0] if self.num_classes > 0 else tokens
        count = slots.shape[1]
        ids = self.token_ids(image_ids, count)
        tokens = self.encode(self.embed(patches, train, positions, count), train, ids)
        if self.num_classes == 0:
            return tokens
        logits = self.classify(tokens, train, ids, count)
        return jnp.where((slots >= 0)[..., None], logits, 0)

    torch_names = {'transformer/block_{i}/feedforward': ('transformer.layers.{i}.1', BARE_FEEDFORWARD)}


class NaViT(PackedViTBase, kw_only=True):
    """NaViT (arXiv:2307.06304): packed images of any size to logits `[b i num_classes]`.

    Attributes:
      image_size: height and width of the largest images in pixels, or one number for both: its patches have
        positions.
      patch_size: height and width of a patch.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def norm(self, width: int) -> Callable[..., Any]:
        return partial(FixedBiasNorm, width=width)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(Attention, self.heads, self.dim_head, norm=self.norm(self.dim))

    def join_pooled(self, pooled: Array, queries: Array) -> Array:
        return pooled + queries

    def pack(
        self,
        images: Lists,
        train: bool = False,
        rng: np.random.Generator | int | None = None,
        kept_tokens: Sequence[Any] | None = None,
        group_images: bool = False,
        group_max_seq_len: int = 2048,
        **packing: Any,
    ) -> dict[str, np.ndarray]:
        """As of the base class, with upstream's two arguments.

        Args:
          images: arrays, or lists of them, one for each row.
          train: leave patches out.
          rng: a numpy generator or a seed, for that.
          kept_tokens: the draw itself.
          group_images: cut a list of images into rows; without it they are one row.
          group_max_seq_len: the most patches in such a row.
          **packing: further arguments of `pack_images`.
        """
        # upstream: an image that loses all its patches is counted as none when images are grouped, although one patch
        # stays, so that a row can become longer than `group_max_seq_len`. Here it counts as one.
        packing.setdefault('max_tokens', group_max_seq_len if group_images else None)
        return super().pack(images, train, rng, kept_tokens, **packing)


CARD = ModelCard(
    NaViT,
    title="Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution",
    arxiv='2307.06304',
    takes='packed images, or image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
)
