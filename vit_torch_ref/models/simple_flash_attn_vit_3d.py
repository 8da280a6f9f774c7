"""FlashAttention, arXiv:2205.14135, for videos; upstream module `simple_flash_attn_vit_3d`."""

from vit_torch_ref.blocks import Transformer
from vit_torch_ref.models import simple_vit_3d
from vit_torch_ref.models.simple_vit import Attention, FeedForward


class SimpleViT(simple_vit_3d.SimpleViT):
    # upstream: `use_flash_attn=False` raises a NameError (einsum is not imported); here both are the same attention.
    def __init__(self, *, use_flash_attn=True, **kwargs):
        super().__init__(**kwargs)

    def trunk(self, dim, depth, heads, dim_head, mlp_dim):
        return Transformer(depth, lambda: Attention(dim, heads, dim_head), lambda: FeedForward(dim, mlp_dim))
