"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580, for videos and volumes.

vit-pytorch's `simple_vit_3d`: SimpleViT of boxes of a few frames, rows and columns, with sines and
cosines of all three coordinates; the channels that they leave over are zero.
"""

from collections.abc import Sequence

from vit_flax.blocks.grids import Grid, video_grid
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit_3d import published_size


class SimpleViT(SimpleViTBase, kw_only=True):
    """Simple ViT of videos (arXiv:2205.01580): `[b t h w c]` to logits `[b num_classes]`; dim is at least 12.

    Attributes:
      image_size: height and width of a frame in pixels, or one number for both.
      image_patch_size: height and width of a patch; must divide the frame's.
      frames: of a video.
      frame_patch_size: frames of a patch; must divide the video's.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    image_patch_size: int | Sequence[int]
    frames: int
    frame_patch_size: int
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        sizes = self.image_size, self.image_patch_size, self.frames, self.frame_patch_size
        return video_grid(*sizes, self.channels)


CARD = ModelCard(
    SimpleViT,
    title='Better plain ViT baselines for ImageNet-1k, for videos',
    arxiv='2205.01580',
    takes='video [b t h w c]',
    paper_size=published_size(),
)
