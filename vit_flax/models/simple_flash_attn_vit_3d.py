"""FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, arXiv:2205.14135, for videos.

vit-pytorch's `simple_flash_attn_vit_3d`: SimpleViT of videos without a norm after its last block.
A fused attention kernel is a matter of the device here, for every model.
"""

from flax import linen as nn

from vit_flax.blocks.grids import VideoGrid
from vit_flax.blocks.transformer import Transformer
from vit_flax.models.simple_vit import SimpleGridViT
from vit_flax.models.vit_3d import published_size
from vit_flax.registry import Model


class SimpleViT(SimpleGridViT, VideoGrid, kw_only=True):
    """Simple ViT of videos without a last norm (arXiv:2205.14135): `[b t h w c]` to logits `[b num_classes]`.

    Attributes:
      use_flash_attn: upstream's switch; both values give the same numbers, and what is computed is
        chosen by device and dtype (`blocks.attention.attend`).
    """

    use_flash_attn: bool = True

    def trunk(self) -> nn.Module:
        # upstream: there is no norm behind the last block, unlike in `simple_flash_attn_vit`, which has it in the
        # head. `use_flash_attn=False` raises a NameError; here it is the same attention.
        return Transformer(self.depth, self.block(), scan=self.scan, remat=self.remat)


MODEL = Model(
    SimpleViT,
    title='FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, for videos',
    arxiv='2205.14135',
    takes='video [b t h w c]',
    paper_size=published_size(),
)
