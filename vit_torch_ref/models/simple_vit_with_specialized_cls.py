"""Class and patch tokens apart, arXiv:2602.08626; upstream module `simple_vit_with_specialized_cls`."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import softmax_attention
from vit_torch_ref.models import simple_vit


class Specialized(nn.Module):
    def __init__(self, make: Callable[[], nn.Module]):
        super().__init__()
        self.fns = nn.ModuleList([make(), make()])

    def forward(self, x: Tensor) -> Tensor:
        for_cls, for_patches = self.fns
        return torch.cat([for_cls(x[:, :1]), for_patches(x[:, 1:])], dim=1)


class FeedForward(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.norm = Specialized(lambda: nn.LayerNorm(dim))
        self.net = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.norm(x))


class Attention(simple_vit.Attention):
    def __init__(self, dim, heads, dim_head, specialize_qkv):
        super().__init__(dim, heads, dim_head)
        self.norm = Specialized(lambda: nn.LayerNorm(dim))
        if specialize_qkv:
            self.to_qkv = Specialized(lambda: nn.Linear(dim, 3 * heads * dim_head, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        return self.to_out(rearrange(softmax_attention(q, k, v, self.scale), 'b e n k -> b n (e k)'))


class Transformer(nn.Module):
    def __init__(self, depth, dim, heads, dim_head, mlp_dim, specialized):
        super().__init__()
        self.norm = Specialized(lambda: nn.LayerNorm(dim))
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head, i < specialized), FeedForward(dim, mlp_dim)])
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            for branch in block:
                x = x + branch(x)
        return self.norm(x)


class SimpleViT(simple_vit.SimpleViT):
    def __init__(self, *, specialize_qkv_depth=None, dim, depth, heads, dim_head=64, mlp_dim, **kwargs):
        super().__init__(dim=dim, depth=0, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, **kwargs)
        self.cls_token = nn.Parameter(0.01 * torch.randn(dim))
        specialized = depth // 3 if specialize_qkv_depth is None else specialize_qkv_depth
        self.transformer = Transformer(depth, dim, heads, dim_head, mlp_dim, specialized)

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        x = x + self.positions.to(x)
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], dim=1)
        return self.linear_head(self.transformer(x)[:, 0])
