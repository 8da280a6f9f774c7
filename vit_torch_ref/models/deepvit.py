"""DeepViT, arXiv:2103.11886; upstream module `deepvit`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention
from vit_torch_ref.models.vit import HeadNormViT


class ReAttention(Attention):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__(dim, heads, dim_head, dropout)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(dropout))
        self.reattn_norm = nn.Sequential(nn.Identity(), nn.LayerNorm(heads))
        self.reattn_weights = nn.Parameter(torch.randn(heads, heads))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        weights = self.dropout(torch.softmax(q @ k.mT * self.scale, dim=-1))
        weights = self.reattn_norm(rearrange(weights, 'b e n m -> b n m e') @ self.reattn_weights)
        x = rearrange(weights, 'b n m e -> b e n m') @ v
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class DeepViT(HeadNormViT):
    attention = ReAttention
