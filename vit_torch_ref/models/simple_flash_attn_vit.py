"""FlashAttention, arXiv:2205.14135; upstream module `simple_flash_attn_vit`."""

from torch import nn

from vit_torch_ref.blocks import Transformer
from vit_torch_ref.models import simple_vit


class SimpleViT(simple_vit.SimpleViT):
    # upstream: `use_flash=False` raises a NameError (einsum is not imported); here both are the same attention.
    def __init__(self, *, dim, depth, heads, dim_head=64, mlp_dim, num_classes, use_flash=True, **kwargs):
        super().__init__(
            dim=dim, depth=0, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, num_classes=num_classes, **kwargs
        )
        self.transformer = Transformer(
            depth,
            lambda: simple_vit.Attention(dim, heads, dim_head),
            lambda: simple_vit.FeedForward(dim, mlp_dim),
        )
        self.linear_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))
