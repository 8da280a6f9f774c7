"""LeVJEPA, arXiv:2608.27395, for grids of 1 to 7 axes; the objective is `vit_flax.objectives.levjepa_nd`.

vit-pytorch's `levjepa_nd.NDTransformer`: the encoder of `levjepa` for series, images, videos and
volumes over time, with patches along every axis and a choice of the axes that are causal.
"""

from collections.abc import Sequence

from jax import Array

from vit_flax.blocks.grids import Grid, nd_grid
from vit_flax.card import ModelCard
from vit_flax.models.levjepa import PositionedTransformerBase


class NDTransformer(PositionedTransformerBase, kw_only=True):
    """LeVJEPA's encoder (arXiv:2608.27395) for grids: `[b *grid c]` to tokens `[b 1+n dim]`, class token first.

    Attributes:
      ndim: number of axes.
      input_shape: lengths of these axes, or one number for all.
      patch_size: of a patch, likewise; must divide the input's.
      causal_dims: axes (or one axis) of the grid with causal attention.
    """

    ndim: int
    input_shape: int | Sequence[int]
    patch_size: int | Sequence[int]
    causal_dims: int | Sequence[int] = (0,)

    @property
    def grid(self) -> Grid:
        return nd_grid(self.ndim, self.input_shape, self.patch_size, self.channels)

    @property
    def causal_axes(self) -> tuple[int, ...]:
        axes = (self.causal_dims,) if isinstance(self.causal_dims, int) else tuple(self.causal_dims)
        if not all(0 <= axis < self.ndim for axis in axes):
            raise ValueError(f'causal_dims={axes} must be axes between 0 and {self.ndim - 1}')
        return axes

    def embed(
        self,
        x: Array,
        train: bool = False,
        drop_ratio: float | None = None,
        kept_patches: Array | None = None,
    ) -> tuple[Array, Array]:
        self.grid.check(x)
        if x.shape[1:-1] != self.grid.lengths:
            raise ValueError(f'input of shape {x.shape} must be of input_shape={self.grid.lengths}')
        return super().embed(x, train, drop_ratio, kept_patches)


CARD = ModelCard(
    NDTransformer,
    title='LeVJEPA, for grids of any number of axes',
    arxiv='2608.27395',
    takes='n-d [b *grid c]',
    paper_size=dict(
        dim=128,
        mlp_dim=256,
        heads=4,
        depth=2,
        ndim=3,
        patch_size=(1, 16, 16),
        input_shape=(8, 64, 64),
    ),
)
