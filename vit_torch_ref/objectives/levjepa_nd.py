"""LeVJEPA for grids of n axes, arXiv:2608.27395; upstream module `levjepa_nd`. Arguments as in `levjepa`."""

from vit_torch_ref.objectives.levjepa import VideoPrediction


class LeVJEPAND(VideoPrediction):
    def __init__(self, encoder, *, input_shape, num_target_aug_views=1, **others):
        super().__init__(encoder, **others)
