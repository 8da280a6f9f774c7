"""FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, arXiv:2205.14135.

vit-pytorch's `simple_flash_attn_vit`: SimpleViT with the norm before the head instead of at the
end of the trunk. A fused attention kernel is a matter of the device here, for every model.
"""

from collections.abc import Sequence

from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class SimpleViT(SimpleViTBase, kw_only=True):
    """SimpleViT with its norm in the head (arXiv:2205.14135): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      use_flash: upstream's switch; both values compute the same, and the
        implementation is chosen by device and dtype (`blocks.attention.attend`).
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    # upstream: `use_flash=False` raises a NameError; here it is the same attention.
    use_flash: bool = True
    scan: bool = False
    remat: Remat = False

    norm_in_head = True

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)


CARD = ModelCard(
    SimpleViT,
    title='FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness',
    arxiv='2205.14135',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
