"""ViT-22B, arXiv:2302.05442; upstream module `simple_vit_with_qk_norm`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer, softmax_attention
from vit_torch_ref.models import simple_vit


class RMSNorm(nn.Module):
    def __init__(self, heads, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((heads, 1, width), width**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        length = x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return x / length * self.gamma * x.shape[-1] ** 0.5


class Attention(simple_vit.Attention):
    def __init__(self, dim, heads, dim_head):
        super().__init__(dim, heads, dim_head)
        self.q_norm, self.k_norm = RMSNorm(heads, dim_head), RMSNorm(heads, dim_head)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        x = softmax_attention(self.q_norm(q), self.k_norm(k), v, 1.0)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class SimpleViT(simple_vit.SimpleViT):
    def __init__(self, *, dim, depth, heads, dim_head=64, mlp_dim, num_classes, classifier=False, **kwargs):
        super().__init__(
            dim=dim, depth=depth, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, num_classes=num_classes, **kwargs
        )
        self.transformer = Transformer(
            depth, lambda: Attention(dim, heads, dim_head), lambda: simple_vit.FeedForward(dim, mlp_dim), dim=dim
        )
        if not classifier:
            self.linear_head = nn.LayerNorm(dim)
