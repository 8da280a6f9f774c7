"""Three things everyone should know about Vision Transformers, arXiv:2203.09795.

vit-pytorch's `parallel_vit`: a ViT whose blocks hold several attentions side by side, then several
feed-forward networks side by side: the parameters of a deeper ViT in fewer steps. Its patches are
projected without norms.
"""

from collections.abc import Callable, Sequence
from functools import partial

from flax import linen as nn
from jax import Array

from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchProjection
from vit_flax.blocks.transformer import Block, Remat
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase, published_size


class Parallel(Module):
    """The sum of equal branches, each with its own parameters.

    Attributes:
      branch: constructor of a branch; takes a name.
      branches: how many.
    """

    branch: Callable[..., nn.Module]
    branches: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        return sum(self.branch(name=f'branch_{i}')(x, train=train) for i in range(self.branches))

    torch_names = {'branch_{i}': 'fns.{i}'}


class ViT(ViTBase, kw_only=True):
    """ViT with parallel branches (arXiv:2203.09795): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      num_parallel_branches: attentions in a block, and feed-forward networks.
      pool: 'cls' classifies the class token, 'mean' the average of all tokens.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_parallel_branches: int = 2
    pool: str = 'cls'
    scan: bool = False
    remat: Remat = False

    norm_in_head = True

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def patch_embedding(self) -> nn.Module:
        return PatchProjection(self.patch_size, self.dim, **self.precision)

    def block(self) -> Callable[..., nn.Module]:
        attention, feedforward = (
            partial(Parallel, branch, self.num_parallel_branches) for branch in (self.attention(), self.feedforward())
        )
        return partial(Block, attention, feedforward)

    torch_names = BATCH_AXES


CARD = ModelCard(
    ViT,
    title='Three things everyone should know about Vision Transformers',
    arxiv='2203.09795',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 18, 6),
    presets={
        'vit_small_patch16_18x2_224': published_size(16, 384, 18, 6),
        'vit_base_patch16_18x2_224': published_size(16, 768, 18, 12),
    },
)
