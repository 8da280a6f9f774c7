"""Revisiting Residual Connections: Orthogonal Updates, arXiv:2505.11881.

vit-pytorch's `simple_vit_orthog_residual_update`: SimpleViT whose blocks add only the part of a
branch's output that is orthogonal to the residual stream, token by token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import unit_length
from vit_flax.blocks.torch_like import Dense
from vit_flax.blocks.transformer import Block, Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class OrthogonalUpdate(Module):
    """What a branch adds to the residual stream, `[b n d] -> [b n d]`.

    Attributes:
      branch: constructor of the branch.
      double_precision: project in float64, where JAX has it switched on; else in float32 at least.
      learned: add the parallel part too, each part times a factor that the branch's output decides.
    """

    branch: Callable[..., nn.Module]
    double_precision: bool = True
    learned: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        update = self.branch(name='branch')(x, train=train)
        wide = jax.dtypes.canonicalize_dtype(jnp.float64 if self.double_precision else jnp.float32)
        wide = jnp.promote_types(update.dtype, wide)
        direction, exact = unit_length(x.astype(wide)), update.astype(wide)
        parallel = (exact * direction).sum(axis=-1, keepdims=True) * direction
        orthogonal = exact - parallel
        if not self.learned:
            return orthogonal.astype(update.dtype)
        shares = jax.nn.sigmoid(Dense(2, **self.precision, name='to_modulation')(update).astype(wide))
        return (parallel * shares[..., :1] + orthogonal * shares[..., 1:]).astype(update.dtype)

    torch_names = {'branch': 'block'}


class SimpleViT(SimpleViTBase, kw_only=True):
    """SimpleViT with orthogonal updates (arXiv:2505.11881): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      orthog_residual_update_kwargs: arguments of `OrthogonalUpdate`: `double_precision`, `learned`.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    orthog_residual_update_kwargs: Mapping[str, Any] = field(default_factory=dict)
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def block(self) -> Callable[..., nn.Module]:
        update = partial(OrthogonalUpdate, **self.orthog_residual_update_kwargs, **self.precision)
        return partial(Block, partial(update, self.attention()), partial(update, self.feedforward()))


CARD = ModelCard(
    SimpleViT,
    title='Revisiting Residual Connections: Orthogonal Updates for Stable and Efficient Deep Networks',
    arxiv='2505.11881',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
