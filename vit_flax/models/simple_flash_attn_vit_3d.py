"""FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, arXiv:2205.14135, for videos.

vit-pytorch's `simple_flash_attn_vit_3d`: SimpleViT of videos without a norm after its last block.
A fused attention kernel is a matter of the device here, for every model.
"""

from collections.abc import Sequence

from flax import linen as nn

from vit_flax.blocks.grids import Grid, video_grid
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit_3d import published_size


class SimpleViT(SimpleViTBase, kw_only=True):
    """Simple ViT of videos without a last norm (arXiv:2205.14135): `[b t h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width of a frame in pixels, or one number for both.
      image_patch_size: height and width of a patch; must divide the frame's.
      frames: of a video.
      frame_patch_size: frames of a patch; must divide the video's.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
      use_flash_attn: upstream's switch; both values compute the same, and the
        implementation is chosen by device and dtype (`blocks.attention.attend`).
    """

    image_size: int | Sequence[int]
    image_patch_size: int | Sequence[int]
    frames: int
    frame_patch_size: int
    scan: bool = False
    remat: Remat = False
    use_flash_attn: bool = True

    @property
    def grid(self) -> Grid:
        sizes = self.image_size, self.image_patch_size, self.frames, self.frame_patch_size
        return video_grid(*sizes, self.channels)

    def trunk(self) -> nn.Module:
        # upstream: there is no norm behind the last block, unlike in `simple_flash_attn_vit`, which has it in the
        # head. `use_flash_attn=False` raises a NameError; here it is the same attention.
        return Transformer(self.depth, self.block(), scan=self.scan, remat=self.remat)


CARD = ModelCard(
    SimpleViT,
    title='FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, for videos',
    arxiv='2205.14135',
    takes='video [b t h w c]',
    paper_size=published_size(),
)
