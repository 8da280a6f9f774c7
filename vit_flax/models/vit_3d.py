"""An Image is Worth 16x16 Words, arXiv:2010.11929, for videos and volumes.

vit-pytorch's `vit_3d`: patches are boxes of a few frames, rows and columns, and all boxes of a video
read one another. The last norm is in the head, and a class token is there even if the average is pooled.
"""

from typing import Any

from vit_flax.blocks.grids import VideoGrid
from vit_flax.models.vit import HeadNormGridViT, PooledGridViT
from vit_flax.registry import Model


class ViT(HeadNormGridViT, PooledGridViT, VideoGrid, kw_only=True):
    """ViT of videos (arXiv:2010.11929): `[b t h w c]` to logits `[b num_classes]`."""


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


MODEL = Model(
    ViT,
    title='An Image is Worth 16x16 Words, for videos',
    arxiv='2010.11929',
    takes='video [b t h w c]',
    paper_size=published_size(),
)
