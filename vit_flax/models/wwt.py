"""What-Where Transformer: A Slot-Centric Visual Backbone, arXiv:2605.12021.

vit-pytorch's `wwt`: beside the patches, levels of fewer and fewer learned slots. Patches and slots attend
to each other in both directions through one map, the mask, which runs through the blocks beside them: it
says where in the image each slot is, while the slot says what is there. Patches never attend to patches.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attention_map, merge_heads, split_heads
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import patch_grid
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, einsum_float32, multiply, repeat, to_float32
from vit_flax.blocks.sigreg import draw_projections, sigreg_loss
from vit_flax.blocks.torch_like import Dense, LayerNorm, PointwiseConv, gelu
from vit_flax.blocks.transformer import BARE_FEEDFORWARD, FeedForward, Remat, Transformer
from vit_flax.card import ModelCard

UnbiasedNorm = partial(LayerNorm, use_bias=False)
Interactions = Sequence[tuple[int, int]]


class WWTReturn(NamedTuple):
    """Logits of the average slot and of the average patch, `[b num_classes]` each."""

    slot_logits: Array
    token_logits: Array


class WWTFeatureReturn(NamedTuple):
    """Slots of each level `[b m d]`, patches `[b n d]` or None, a mask for each interaction."""

    slots: tuple[Array, ...]
    tokens: Array | None
    masks: list[Array]


class AutoencodingHead(Module, kw_only=True):
    """Takes features from one level to another along the masks, for a decoder.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch.
      decoder: a module called with the features; they are returned as they are if None.
      pathways: levels one after the other, rising or falling, with an interaction for each step; one from
        each level that interacts with the patches to the patches if None.
      patch_pathway_id: the level of the patches.
      channel_first: features of patches as `[b d h w]` instead of `[b h w d]`.

    Raises:
      ValueError: a pathway turns round, none leads to the patches, or a step has no interaction.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    decoder: nn.Module | None = None
    pathways: Sequence[Sequence[int]] | None = None
    patch_pathway_id: int = 0
    channel_first: bool = False

    def __call__(
        self, hierarchy_features: Sequence[Array], masks: Sequence[Array], interactions: Interactions
    ) -> Array | tuple[Array, ...]:
        """Features at the end of each pathway.

        Args:
          hierarchy_features: of each level, `[b n d]`.
          masks: one for each interaction, `[b ... n m]`.
          interactions: pairs of levels, the lower first.

        Returns:
          what the decoder makes of them, a tuple if there are several pathways; `[b h w d]` without decoder
          where a pathway ends at the patches, else `[b m d]`.
        """
        pathways = self.pathways
        if pathways is None:
            pathways = [(j, i) for i, j in interactions if i == self.patch_pathway_id]
        if not pathways:
            raise ValueError(f'interactions={interactions} do not lead to the patches (level {self.patch_pathway_id})')
        maps = {
            (i, j): mask.mean(axis=tuple(range(1, mask.ndim - 2)))
            for (i, j), mask in zip(interactions, masks, strict=True)
        }
        features = [self._follow(pathway, hierarchy_features, maps) for pathway in pathways]
        return features[0] if len(features) == 1 else tuple(features)

    def _follow(self, pathway: Sequence[int], levels: Sequence[Array], maps: dict[tuple[int, int], Array]) -> Array:
        falling = pathway[0] > pathway[-1]
        x = levels[pathway[0]]
        for source, target in pairwise(pathway):
            if (target < source) != falling:
                raise ValueError(f'pathway {tuple(pathway)} of pathways must rise or fall all the way')
            step = (target, source) if falling else (source, target)
            if step not in maps:
                raise ValueError(f'pathway {tuple(pathway)} needs the interaction {step}: there are {sorted(maps)}')
            x = jax.nn.softmax(maps[step] if falling else maps[step].mT, axis=-1) @ x
        if pathway[-1] == self.patch_pathway_id:
            rows, _ = patch_grid(self.image_size, self.patch_size)
            x = rearrange(x, f'b (h w) d -> {"b d h w" if self.channel_first else "b h w d"}', h=rows)
        return x if self.decoder is None else self.decoder(x)


class MutualAttention(Module):
    """Tokens and slots attend to each other, and the mask takes notice, `[b n d], [b m d], [b g e n m]`.

    Attributes:
      heads: attention heads.
      dim_head: width of one head.
      mlp_dim: hidden width of the network that makes the next mask.
      dropout: rate after each projection.
      l1norm_after_tokens_softmax: each slot takes an average of tokens, not a sum.
      token_softmax_over_slots: a map of its own (g = 2) for what tokens take from slots, whose shares
        of all slots sum to one; else the map is shared (g = 1) and a slot's shares of all tokens do.
      project_mask_groups: join the two maps to one mask.
      gate_attention: gate each head of the result by its token or slot.
    """

    heads: int
    dim_head: int
    mlp_dim: int
    dropout: float = 0.0
    l1norm_after_tokens_softmax: bool = False
    token_softmax_over_slots: bool = False
    project_mask_groups: bool = False
    gate_attention: bool = True

    @nn.compact
    def __call__(self, tokens: Array, slots: Array, mask: Array, train: bool = False) -> tuple[Array, Array, Array]:
        """Returns what is to be added to tokens and slots, and the next mask."""
        dim, inner = tokens.shape[-1], self.heads * self.dim_head
        groups = 2 if self.token_softmax_over_slots else 1
        of_tokens = Dense((groups + 1) * inner, use_bias=False, **self.precision, name='to_q_v_tokens')(tokens)
        of_slots = Dense(2 * inner, use_bias=False, **self.precision, name='to_k_v_slots')(slots)
        *queries, v_tokens = jnp.split(of_tokens, groups + 1, axis=-1)
        k, v_slots = jnp.split(of_slots, 2, axis=-1)
        q = jnp.stack([split_heads(t, self.heads) for t in queries], axis=1)
        k, v_slots, v_tokens = (split_heads(t, self.heads) for t in (k, v_slots, v_tokens))
        mask = to_float32(mask) + self.dim_head**-0.5 * einsum_float32('b g e n k, b e m k -> b g e n m', q, k)

        to_slots = attention_map(self, mask[:, 0], mask.dtype)
        to_tokens = jax.nn.softmax(mask[:, -1], axis=-1 if self.token_softmax_over_slots else -2)
        if self.l1norm_after_tokens_softmax:
            to_slots = to_slots / jnp.maximum(to_slots.sum(axis=-2, keepdims=True), 1e-8)
        for_tokens = to_tokens.astype(v_slots.dtype) @ v_slots
        for_slots = to_slots.astype(v_tokens.dtype).mT @ v_tokens
        if self.gate_attention:
            for_tokens = multiply(for_tokens, self._gate(tokens, 'tokens_gate'))
            for_slots = multiply(for_slots, self._gate(slots, 'slots_gate'))
        for_tokens, for_slots = (
            nn.Dropout(self.dropout, name=f'{name}_dropout')(
                Dense(dim, **self.precision, name=name)(merge_heads(x)), deterministic=not train
            )
            for name, x in (('to_out_tokens', for_tokens), ('to_out_slots', for_slots))
        )
        return for_tokens, for_slots, self._next_mask(mask.astype(k.dtype), tokens + for_tokens, train)

    def _gate(self, x: Array, name: str) -> Array:
        gate = jax.nn.sigmoid(to_float32(Dense(self.heads, use_bias=False, **self.precision, name=name)(x)))
        return rearrange(gate, 'b n e -> b e n 1')

    def _next_mask(self, mask: Array, tokens: Array, train: bool) -> Array:
        """A network on each token and its row of the mask."""
        if self.project_mask_groups and self.token_softmax_over_slots:
            joined = rearrange(mask, 'b g e n m -> b n m (g e)')
            joined = PointwiseConv(self.heads, **self.precision, name='mask_project')(joined)
            mask = rearrange(joined, 'b n m e -> b 1 e n m')
        _, groups, _, _, positions = mask.shape
        rows = rearrange(mask, 'b g e n m -> b n (g e m)')
        width = rows.shape[-1]
        x = jnp.concatenate(self.promote(rows, tokens), axis=-1)
        x = UnbiasedNorm(**self.precision, name='mask_norm')(x)
        x = gelu(Dense(self.mlp_dim, **self.precision, name='mask_expand')(x))
        x = nn.Dropout(self.dropout, name='mask_hidden_dropout')(x, deterministic=not train)
        x = Dense(width, **self.precision, name='mask_contract')(x)
        x = nn.Dropout(self.dropout, name='mask_dropout')(x, deterministic=not train)
        return rearrange(x, 'b n (g e m) -> b g e n m', g=groups, m=positions)

    torch_names = {
        'to_out_tokens': 'to_out_tokens.0',
        'to_out_slots': 'to_out_slots.0',
        'tokens_gate': 'tokens_gate.0',
        'slots_gate': 'slots_gate.0',
        'mask_norm': 'mlp_mask.0',
        'mask_expand': 'mlp_mask.1',
        'mask_contract': 'mlp_mask.4',
    }


class WWTBlock(Module):
    """The interactions between the levels at once, then a feed-forward network on each level."""

    interactions: Interactions
    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, state: tuple[tuple[Array, ...], tuple[Array, ...]], train: bool = False
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Args: levels `[b n d]`, and a mask `[b g e n m]` for each interaction. Returns both anew."""
        levels, masks = state
        normed = [UnbiasedNorm(**self.precision, name=f'norm_{i}')(x) for i, x in enumerate(levels)]
        sums, next_masks = list(levels), []
        for index, ((i, j), mask) in enumerate(zip(self.interactions, masks, strict=True)):
            attention = self.attention(name=f'attention_{index}')
            for_tokens, for_slots, mask = attention(normed[i], normed[j], mask, train=train)
            sums[i], sums[j] = sums[i] + for_tokens, sums[j] + for_slots
            # takes the place of the old mask, to which nothing is added
            next_masks.append(mask)
        out = [x + self.feedforward(name=f'feedforward_{i}')(x, train=train) for i, x in enumerate(sums)]
        return tuple(self.tap('block', x) for x in out), tuple(next_masks)

    torch_names = {
        'norm_{i}': 'norms.{i}',
        'attention_{i}': 'attns.{i}',
        'feedforward_{i}': ('mlps.{i}', BARE_FEEDFORWARD),
    }


class LearnedTokens(Module):
    """`rows` tokens drawn from N(0, 1), `[rows dim]`; no parameter if there are none."""

    rows: int
    dim: int

    @nn.compact
    def __call__(self) -> Array:
        if self.rows == 0:
            return jnp.zeros((0, self.dim), self.dtype or self.param_dtype)
        return self.param('embedding', normal(1.0), (self.rows, self.dim), self.param_dtype)

    torch_names = {'embedding': ''}
    # upstream: without registers the state dict still holds them, of no rows.
    torch_only = {'': lambda module: None if module.rows else np.zeros((0, module.dim), np.float32)}


class Head(Module):
    """LayerNorm and Linear on each token, averaged, `[b n d] -> [b num_classes]`."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = UnbiasedNorm(**self.precision, name='norm')(x)
        return Dense(self.num_classes, **self.precision, name='linear')(x).mean(axis=1)

    torch_names = {'norm': '0', 'linear': '1'}


class WWT(Backbone, kw_only=True):
    """What-Where Transformer (arXiv:2605.12021): images `[b h w c]` to logits `[b num_classes]`, and more if asked.

    Attributes:
      image_size: height and width in pixels, or one number for both; images must be of this size.
      patch_size: height and width of a patch; must divide the image's.
      num_classes: width of the logits.
      dim: width of a token and of a slot.
      depth: number of blocks.
      num_slots: slots of each level above the patches, falling; one number for a single level.
      sigreg_slots: for each level, or for all, whether its slots enter the SIGReg loss (LeJEPA,
        arXiv:2511.08544), which is then returned behind everything else.
      interactions: pairs of levels that attend to each other, the lower first; level 0 are the patches. All
        levels with the patches if None.
      heads: attention heads in each interaction.
      dim_head: width of one head.
      mlp_dim: hidden width of the feed-forward networks; four times `dim` if None.
      channels: of the images.
      dropout: rate after each projection.
      return_tokens: return a `WWTReturn` with logits of the patches, too.
      l1norm_after_tokens_softmax, token_softmax_over_slots, project_mask_groups, gate_attention: see
        `MutualAttention`.
      num_register_tokens: registers beside the patches.
      num_register_slots: registers beside the slots, of each level or of all.
      task_heads: one module or several, called as `head(levels, masks, interactions)`, such as
        `AutoencodingHead`; what they return follows the logits.
      sigreg_seed: of the directions of the SIGReg loss in evaluation, where there is no rng: those that
        `draw_projections` makes of `jax.random.key(sigreg_seed)`, split over the levels.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile the image, slots do not fall, interactions are repeated, do not rise or
        name a level that is not there, settings of another number of levels, or images of another size.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_classes: int
    dim: int
    depth: int
    num_slots: int | Sequence[int]
    sigreg_slots: bool | Sequence[bool] | None = None
    interactions: Interactions | None = None
    heads: int = 8
    dim_head: int = 64
    mlp_dim: int | None = None
    channels: int = 3
    dropout: float = 0.0
    return_tokens: bool = False
    l1norm_after_tokens_softmax: bool = False
    token_softmax_over_slots: bool = False
    project_mask_groups: bool = False
    gate_attention: bool = True
    num_register_tokens: int = 0
    num_register_slots: int | Sequence[int] = 0
    task_heads: nn.Module | Sequence[nn.Module] = ()
    sigreg_seed: int = 0
    scan: bool = False
    remat: Remat = False

    head = ('mlp_head/linear', 'mlp_head_tokens/linear')
    taps_latent = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_prefix_tokens(self) -> int:
        return self.num_register_tokens

    @property
    def slots_of_levels(self) -> tuple[int, ...]:
        """Slots of each level above the patches."""
        return (self.num_slots,) if isinstance(self.num_slots, int) else tuple(self.num_slots)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Levels that attend to each other."""
        if self.interactions is None:
            return tuple((0, level + 1) for level in range(len(self.slots_of_levels)))
        return tuple((i, j) for i, j in self.interactions)

    def _per_level(self, name: str) -> tuple:
        value, levels = getattr(self, name), len(self.slots_of_levels)
        values = (value,) * levels if isinstance(value, int) else tuple(value)
        if len(values) != levels:
            raise ValueError(f'{name}={value} must be one value or {levels}, for num_slots={self.num_slots}')
        return values

    @property
    def registers(self) -> tuple[int, ...]:
        """Registers of each level, patches first."""
        return (self.num_register_tokens, *self._per_level('num_register_slots'))

    @property
    def regularised(self) -> list[int]:
        """The levels above the patches, counted from 0, whose slots enter the SIGReg loss."""
        wanted = () if self.sigreg_slots is None else self._per_level('sigreg_slots')
        return [level for level, yes in enumerate(wanted) if yes]

    def setup(self) -> None:
        slots = self.slots_of_levels
        if any(more <= fewer for more, fewer in pairwise(slots)):
            raise ValueError(f'num_slots={slots} must fall strictly from level to level')
        if len(set(self.pairs)) < len(self.pairs) or any(not 0 <= i < j <= len(slots) for i, j in self.pairs):
            raise ValueError(
                f'interactions={self.pairs} must be different pairs of levels 0 to {len(slots)}, the lower level first'
            )
        _ = self.regularised
        self.to_patch_embedding = PatchEmbedding(self.patch_size, self.dim, UnbiasedNorm, **self.precision)
        self.pos_embedding = self.param(
            'pos_embedding', normal(1.0), (self.grid.num_patches, self.dim), self.param_dtype
        )
        self.slots = [LearnedTokens(rows, self.dim, **self.precision) for rows in slots]
        registers = [LearnedTokens(rows, self.dim, **self.precision) for rows in self.registers]
        self.register_tokens, self.register_slots = registers[0], registers[1:]
        hidden = 4 * self.dim if self.mlp_dim is None else self.mlp_dim
        block = partial(
            WWTBlock,
            self.pairs,
            attention=partial(
                MutualAttention,
                self.heads,
                self.dim_head,
                hidden,
                self.dropout,
                self.l1norm_after_tokens_softmax,
                self.token_softmax_over_slots,
                self.project_mask_groups,
                self.gate_attention,
                **self.precision,
            ),
            feedforward=partial(FeedForward, hidden, self.dropout, UnbiasedNorm, **self.precision),
            **self.precision,
        )
        self.transformer = Transformer(self.depth, block, scan=self.scan, remat=self.remat)
        self.mlp_head = Head(self.num_classes, **self.precision)
        if self.return_tokens:
            self.mlp_head_tokens = Head(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> tuple[Array, ...]:
        """Images to the levels, registers first in each, `[b h w c] -> ([b n d], ...)`."""
        self.grid.check(images)
        if images.shape[1:3] != self.grid.lengths:
            raise ValueError(f'images of shape {images.shape} must be of image_size={self.grid.lengths}')
        tokens = rearrange(self.to_patch_embedding(images), 'b h w d -> b (h w) d')
        tokens, positions = self.promote(tokens, self.pos_embedding)
        levels = [
            add(tokens, positions),
            *(repeat(module(), 'm d -> b m d', b=images.shape[0]) for module in self.slots),
        ]
        joined = []
        for registers, level in zip((self.register_tokens, *self.register_slots), levels, strict=True):
            # in the dtype of the patches, as the blocks give them back
            first, level, _ = self.promote(repeat(registers(), 'm d -> b m d', b=images.shape[0]), level, tokens)
            joined.append(self.tap('embedding', jnp.concatenate([first, level], axis=1)))
        return tuple(joined)

    def encode(self, levels: tuple[Array, ...], train: bool = False) -> tuple[tuple[Array, ...], list[Array]]:
        """The blocks: levels without registers `[b n d]`, and for each interaction a mask.

        Masks are `[b e n m]`, or `[b g e n m]` with the two maps of `token_softmax_over_slots`, unless projected.
        """
        one = not self.token_softmax_over_slots or self.project_mask_groups
        groups = 1 if one else 2
        masks = tuple(
            jnp.zeros((levels[0].shape[0], groups, self.heads, levels[i].shape[1], levels[j].shape[1]), levels[0].dtype)
            for i, j in self.pairs
        )
        transformer: Callable = self.transformer
        levels, out_masks = transformer((levels, masks), train=train)
        first = self.registers
        seen = [mask[..., first[i] :, first[j] :] for (i, j), mask in zip(self.pairs, out_masks, strict=True)]
        return (
            tuple(x[:, start:] for x, start in zip(levels, first, strict=True)),
            [mask[:, 0] for mask in seen] if one else seen,
        )

    def classify(self, levels: tuple[Array, ...], train: bool = False) -> Array | WWTReturn:
        """Logits of the encoded levels."""
        tokens, *slots = levels
        logits = sum(map(self.mlp_head, slots), start=jnp.zeros((), tokens.dtype)) / len(slots)
        return WWTReturn(logits, self.mlp_head_tokens(tokens)) if self.return_tokens else logits

    def regularise(self, levels: tuple[Array, ...], train: bool, projections: Array | None) -> Array:
        """The SIGReg loss of the encoded levels, a scalar."""
        if projections is None:
            # upstream: the projections are drawn anew in evaluation too; here those of `sigreg_seed` are used then.
            key = self.make_rng('projections') if train else jax.random.key(self.sigreg_seed)
            rngs = jax.random.split(key, len(self.regularised))
            projections = jnp.stack([draw_projections(rng, self.dim) for rng in rngs])
        slots = [levels[1 + level] for level in self.regularised]
        losses = [sigreg_loss(x, directions) for x, directions in zip(slots, projections, strict=True)]
        return sum(losses, start=jnp.zeros((), levels[0].dtype))

    def __call__(
        self,
        images: Array,
        train: bool = False,
        return_embeddings: bool = False,
        sigreg_projections: Array | None = None,
    ) -> Any:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: dropout, and projections from the rng `projections` if the loss needs them.
          return_embeddings: return the encoded levels and masks instead.
          sigreg_projections: directions for each level in the SIGReg loss, `[levels s d]` (see
            `vit_flax.blocks.sigreg.draw_projections`).

        Returns:
          logits `[b num_classes]`, or a `WWTReturn`; a `WWTFeatureReturn` with `return_embeddings`. With
          task heads a tuple of the logits and what each head returns; with `sigreg_slots` the loss follows, in
          which case a `WWTReturn` is taken apart.
        """
        levels, masks = self.encode(self.embed(images, train), train)
        tokens, *slots = levels
        heads = (self.task_heads,) if isinstance(self.task_heads, nn.Module) else tuple(self.task_heads)
        if return_embeddings and not self.is_initializing():
            return WWTFeatureReturn(tuple(slots), tokens if self.return_tokens else None, masks)
        result: Any = self.classify(levels, train) if self.num_classes > 0 else (levels, masks)
        if heads:
            result = (result, *(head(levels, masks, self.pairs) for head in heads))
        if self.regularised:
            parts = result if isinstance(result, tuple) else (result,)
            result = (*parts, self.regularise(levels, train, sigreg_projections))
        return result

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_embedding': PositionTable(self.grid.shape)}

    torch_names = {
        'slots_{i}': 'slots.{i}',
        'register_slots_{i}': 'register_slots.{i}',
        'transformer': '',
        'task_heads': 'task_heads.0',
        'task_heads_{i}': 'task_heads.{i}',
    }


CARD = ModelCard(
    WWT,
    title='What-Where Transformer: A Slot-Centric Visual Backbone for Concurrent Representation and Localization',
    arxiv='2605.12021',
    takes='image [b h w c]',
    paper_size=dict(
        image_size=224,
        patch_size=16,
        num_classes=1000,
        dim=384,
        depth=12,
        num_slots=(64, 16),
        heads=6,
    ),
)
