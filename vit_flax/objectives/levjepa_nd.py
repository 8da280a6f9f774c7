"""LeVJEPA, arXiv:2608.27395, for grids of 1 to 7 axes.

vit-pytorch's `levjepa_nd`: as `levjepa` for series, images, videos and volumes over time. The caller's functions
make the views: one is the source, and the projections of the others are trained to that of the source.
"""

from collections.abc import Sequence
from typing import Any, Self

import jax
from jax import Array

from vit_flax.models.levjepa_nd import NDTransformer as NDTransformer
from vit_flax.objectives.levjepa import LeVJEPALoss
from vit_flax.objectives.views import GridViews


class LeVJEPAND(LeVJEPALoss, GridViews, kw_only=True):
    """LeVJEPA for grids with vit-pytorch's constructor: the loss of `LeVJEPALoss`, the views of `GridViews`.

    Attributes:
      input_shape: lengths of the grid's axes; those of the encoder.
    """

    input_shape: int | Sequence[int]

    def setup(self) -> None:
        super().setup()
        encoder = self.encoder
        given = (self.input_shape,) * encoder.ndim if isinstance(self.input_shape, int) else tuple(self.input_shape)
        if given != encoder.grid.lengths:
            raise ValueError(f'input_shape={given} must be that of the encoder, {encoder.grid.lengths}')

    @classmethod
    def paper(cls, encoder: Any, input_shape: int | Sequence[int] | None = None, **changes: Any) -> Self:
        """The paper's: each input's views are compared with its own source."""
        shape = encoder.grid.lengths if input_shape is None else input_shape
        return cls(encoder=encoder, input_shape=shape, **{**cls.PAPER, **changes})

    def draw(self, rng: Array, x: Array) -> dict[str, Array]:
        """Views of `[b *grid c]`, patches to keep and directions for SIGReg.

        `global_views` `[1 b *grid c]`, `local_views` `[v b *grid c]`, `kept_patches`, `projections`.
        """
        for_views, for_patches, for_loss = jax.random.split(rng, 3)
        views = GridViews.draw(self, for_views, x)
        kept = self.draw_kept_patches(for_patches, **views)
        return {**views, **kept, **LeVJEPALoss.draw(self, for_loss, x)}

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views and directions that fit, for tracing."""
        return self.example_of(self.num_target_aug_views)
