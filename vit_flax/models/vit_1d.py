"""An Image is Worth 16x16 Words, arXiv:2010.11929, for series instead of images.

vit-pytorch's `vit_1d`: the ViT of signals, spectra and other sequences `[b n c]`. A patch is a few
neighbours of the series with all their channels; the last norm is in the head, behind the class token.
"""

from vit_flax.blocks.grids import Grid, series_grid
from vit_flax.blocks.transformer import Remat
from vit_flax.blocks.weight_ops import Inverse, UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase


class ViT(ViTBase, kw_only=True):
    """ViT of series (arXiv:2010.11929): `[b n c]` to logits `[b num_classes]`.

    Attributes:
      seq_len: length of a series.
      patch_size: length of a patch; must divide the series'.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    seq_len: int
    patch_size: int
    scan: bool = False
    remat: Remat = False

    norm_in_head = True

    @property
    def grid(self) -> Grid:
        return series_grid(self.seq_len, self.patch_size, self.channels)

    torch_names = {**BATCH_AXES, 'cls_token': ('cls_token', Inverse(UnitAxes((0,))))}


CARD = ModelCard(
    ViT,
    title='An Image is Worth 16x16 Words, for series',
    arxiv='2010.11929',
    takes='series [b n c]',
    paper_size=dict(seq_len=256, patch_size=16, num_classes=1000, dim=1024, depth=6, heads=8, mlp_dim=2048),
)
