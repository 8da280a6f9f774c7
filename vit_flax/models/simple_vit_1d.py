"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580, for series instead of images.

vit-pytorch's `simple_vit_1d`: SimpleViT of sequences `[b n c]`, with sines and cosines of the place
in the series.
"""

from vit_flax.blocks.checks import check_divisible
from vit_flax.blocks.grids import SeriesGrid
from vit_flax.models.simple_vit import SimpleGridViT
from vit_flax.models.vit_1d import MODEL as VIT_1D
from vit_flax.registry import Model


class SimpleViT(SimpleGridViT, SeriesGrid, kw_only=True):
    """Simple ViT of series (arXiv:2205.01580): `[b n c]` to logits `[b num_classes]`; dim must be even."""

    def setup(self) -> None:
        check_divisible('dim', self.dim, 'the sine and the cosine', 2)
        super().setup()


MODEL = Model(
    SimpleViT,
    title='Better plain ViT baselines for ImageNet-1k, for series',
    arxiv='2205.01580',
    takes='series [b n c]',
    paper_size=VIT_1D.paper_size,
)
