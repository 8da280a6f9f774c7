"""An Image is Worth 16x16 Words, arXiv:2010.11929, for videos and volumes.

vit-pytorch's `vit_3d`: patches are boxes of a few frames, rows and columns, and all boxes of a video
read one another. The last norm is in the head, and a class token is there even if the average is pooled.
"""

from collections.abc import Sequence
from typing import Any

from vit_flax.blocks.grids import Grid, video_grid
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase


class ViT(ViTBase, kw_only=True):
    """ViT of videos (arXiv:2010.11929): `[b t h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width of a frame in pixels, or one number for both.
      image_patch_size: height and width of a patch; must divide the frame's.
      frames: of a video.
      frame_patch_size: frames of a patch; must divide the video's.
      pool: 'cls' classifies the class token, 'mean' the average of all tokens.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    image_patch_size: int | Sequence[int]
    frames: int
    frame_patch_size: int
    pool: str = 'cls'
    scan: bool = False
    remat: Remat = False

    norm_in_head = True

    @property
    def grid(self) -> Grid:
        sizes = self.image_size, self.image_patch_size, self.frames, self.frame_patch_size
        return video_grid(*sizes, self.channels)

    torch_names = BATCH_AXES


def published_size() -> dict[str, Any]:
    """Keyword arguments of the example that vit-pytorch leads with."""
    return dict(
        image_size=128,
        frames=16,
        image_patch_size=16,
        frame_patch_size=2,
        num_classes=1000,
        dim=1024,
        depth=6,
        heads=8,
        mlp_dim=2048,
    )


CARD = ModelCard(
    ViT,
    title='An Image is Worth 16x16 Words, for videos',
    arxiv='2010.11929',
    takes='video [b t h w c]',
    paper_size=published_size(),
)
