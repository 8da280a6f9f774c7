"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580, for series instead of images.

vit-pytorch's `simple_vit_1d`: SimpleViT of sequences `[b n c]`, with sines and cosines of the position
in the series.
"""

from vit_flax.blocks.checks import check_divisible
from vit_flax.blocks.grids import Grid, series_grid
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit_1d import CARD as VIT_1D


class SimpleViT(SimpleViTBase, kw_only=True):
    """Simple ViT of series (arXiv:2205.01580): `[b n c]` to logits `[b num_classes]`; dim must be even.

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

    @property
    def grid(self) -> Grid:
        return series_grid(self.seq_len, self.patch_size, self.channels)

    def setup(self) -> None:
        check_divisible('dim', self.dim, 'the sine and the cosine', 2)
        super().setup()


CARD = ModelCard(
    SimpleViT,
    title='Better plain ViT baselines for ImageNet-1k, for series',
    arxiv='2205.01580',
    takes='series [b n c]',
    paper_size=VIT_1D.paper_size,
)
