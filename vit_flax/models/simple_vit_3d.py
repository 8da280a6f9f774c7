"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580, for videos and volumes.

vit-pytorch's `simple_vit_3d`: SimpleViT of boxes of a few frames, rows and columns, with sines and
cosines of all three coordinates; the channels that they leave over are zero.
"""

from vit_flax.blocks.grids import VideoGrid
from vit_flax.models.simple_vit import SimpleGridViT
from vit_flax.models.vit_3d import published_size
from vit_flax.registry import Model


class SimpleViT(SimpleGridViT, VideoGrid, kw_only=True):
    """Simple ViT of videos (arXiv:2205.01580): `[b t h w c]` to logits `[b num_classes]`; dim is at least 12."""


MODEL = Model(
    SimpleViT,
    title='Better plain ViT baselines for ImageNet-1k, for videos',
    arxiv='2205.01580',
    takes='video [b t h w c]',
    paper_size=published_size(),
)
