"""LeVJEPA, arXiv:2608.27395, for grids of 1 to 7 axes.

vit-pytorch's `levjepa_nd`: as `levjepa` for series, images, videos and volumes over time. How views
differ is the caller's to say: one is the source, the others are to agree with it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vit_flax.models.levjepa_nd import NDTransformer as NDTransformer
from vit_flax.objectives.levjepa import VideoPredictionBase
from vit_flax.objectives.views import Augmentation


class LeVJEPAND(VideoPredictionBase, kw_only=True):
    """LeVJEPA for grids: views to the loss. For the other arguments see `VideoPredictionBase`.

    Attributes:
      input_shape: lengths of the grid's axes; those of the encoder.
      augment_src, augment_tgt: `(rng, x) -> x`, what makes the source view and the others; None leaves them alone.
      num_target_aug_views: views beside the source.
    """

    input_shape: int | Sequence[int]
    augment_src: Augmentation | None = None
    augment_tgt: Augmentation | None = None
    num_target_aug_views: int = 1

    def setup(self) -> None:
        super().setup()
        encoder = self.encoder
        given = (self.input_shape,) * encoder.ndim if isinstance(self.input_shape, int) else tuple(self.input_shape)
        if given != tuple(encoder.lengths):
            raise ValueError(f'input_shape={given} must be that of the encoder, {tuple(encoder.lengths)}')

    @classmethod
    def paper(cls, encoder: Any, input_shape: int | Sequence[int], **changes: Any) -> 'LeVJEPAND':
        """The paper's: each input's views are compared with its own source."""
        return cls(encoder=encoder, input_shape=input_shape, **{'views_in_order': True, **changes})

    def draw(self, rng: Array, x: Array) -> dict[str, Array]:
        """Views of `[b *grid c]`, patches to keep and directions for SIGReg.

        `global_views` `[1 b *grid c]`, `local_views` `[v b *grid c]`, `kept_patches`, `projections`.
        """
        keys = jax.random.split(rng, self.num_target_aug_views + 2)

        def view(key: Array, augment: Augmentation | None) -> Array:
            return x if augment is None else augment(key, x)

        return {
            'global_views': view(keys[0], self.augment_src)[None],
            'local_views': jnp.stack([view(key, self.augment_tgt) for key in keys[1:-1]]),
            **self.draw_rest(keys[-1], x.shape[0] * (1 + self.num_target_aug_views), self.encoder.grid.num_patches),
        }

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views and directions that fit, for tracing."""
        return self.example_views(self.num_target_aug_views)
