"""U-ViT, arXiv:2209.12152; upstream module `simple_uvit`."""

import torch
from torch import Tensor, nn

from vit_torch_ref.blocks import feed_forward
from vit_torch_ref.models import simple_vit, simple_vit_with_register_tokens


class Transformer(nn.Module):
    def __init__(self, depth, dim, heads, dim_head, mlp_dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.skipping = depth // 2
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Linear(2 * dim, dim) if i >= depth - self.skipping else None,
                    simple_vit.Attention(dim, heads, dim_head),
                    feed_forward(dim, mlp_dim),
                ]
            )
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        entered = []
        for i, (combine, attention, feedforward) in enumerate(self.layers):
            entered.append(x)
            if combine is not None:
                x = combine(torch.cat([entered[len(self.layers) - 1 - i], x], dim=-1))
            x = x + attention(x)
            x = x + feedforward(x)
        return self.norm(x)


class SimpleUViT(simple_vit_with_register_tokens.SimpleViT):
    def __init__(self, *, dim, depth, heads, dim_head=64, mlp_dim, **kwargs):
        super().__init__(dim=dim, depth=0, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, **kwargs)
        self.transformer = Transformer(depth, dim, heads, dim_head, mlp_dim)
