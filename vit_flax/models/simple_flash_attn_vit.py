"""FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, arXiv:2205.14135.

vit-pytorch's `simple_flash_attn_vit`: SimpleViT with the norm before the head instead of at the
end of the trunk. A fused attention kernel is a matter of the device here, for every model.
"""

from flax import linen as nn

from vit_flax.blocks.transformer import Transformer
from vit_flax.models import simple_vit
from vit_flax.models.vit import NormedHead, published_size
from vit_flax.registry import Model


class SimpleViT(simple_vit.SimpleViT, kw_only=True):
    """SimpleViT with its norm in the head (arXiv:2205.14135): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      use_flash: upstream's switch; both values give the same numbers, and what is computed is
        chosen by device and dtype (`blocks.attention.attend`).
    """

    use_flash: bool = True

    def trunk(self) -> nn.Module:
        # upstream: `use_flash=False` raises a NameError; here it is the same attention.
        return Transformer(self.depth, self.block(), scan=self.scan, remat=self.remat)

    def head(self) -> nn.Module:
        return NormedHead(self.num_classes, **self.precision)


MODEL = Model(
    SimpleViT,
    title='FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness',
    arxiv='2205.14135',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
