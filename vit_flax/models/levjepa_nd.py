"""LeVJEPA, arXiv:2608.27395, for grids of 1 to 7 axes; the objective is `vit_flax.objectives.levjepa_nd`.

vit-pytorch's `levjepa_nd.NDTransformer`: the encoder of `levjepa` for series, images, videos and
volumes over time, with patches along every axis and a choice of the axes that are causal.
"""

from collections.abc import Sequence

from jax import Array

from vit_flax.blocks.grids import NDGrid
from vit_flax.models.levjepa import PlacedTransformerBase
from vit_flax.registry import Model


class NDTransformer(NDGrid, PlacedTransformerBase, kw_only=True):
    """LeVJEPA's encoder (arXiv:2608.27395) for grids: `[b *grid c]` to tokens `[b 1+n dim]`, class token first.

    Attributes:
      causal_dims: axes (or one axis) of the grid along which no token sees what is ahead of it.
    """

    causal_dims: int | Sequence[int] = (0,)

    @property
    def causal_axes(self) -> tuple[int, ...]:
        axes = (self.causal_dims,) if isinstance(self.causal_dims, int) else tuple(self.causal_dims)
        if not all(0 <= axis < self.ndim for axis in axes):
            raise ValueError(f'causal_dims={axes} must be axes between 0 and {self.ndim - 1}')
        return axes

    def check_input(self, x: Array) -> None:
        super().check_input(x)
        if x.shape[1:-1] != self.lengths:
            raise ValueError(f'input of shape {x.shape} must be of input_shape={self.lengths}')


MODEL = Model(
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
