"""Vision Transformer for Small-Size Datasets, arXiv:2112.13492; upstream module `vit_for_small_dataset`."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from vit_torch_ref.blocks import pair
from vit_torch_ref.models.vit import HeadNormViT


class LSA(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.temperature = nn.Parameter(torch.tensor(-0.5 * math.log(dim_head)))
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        scores = q @ k.mT * self.temperature.exp()
        itself = torch.eye(x.shape[1], dtype=torch.bool)
        weights = torch.softmax(scores.masked_fill(itself, torch.finfo(scores.dtype).min), dim=-1)
        return self.to_out(rearrange(self.dropout(weights) @ v, 'b e n k -> b n (e k)'))


class SPT(nn.Module):
    def __init__(self, *, channels=3, patch_size, dim, paper_shifts=False):
        super().__init__()
        self.patch = p, q = pair(patch_size)
        width = 5 * p * q * channels
        self.to_patch_tokens = nn.Sequential(nn.Identity(), nn.LayerNorm(width), nn.Linear(width, dim))
        down, right = (p // 2, q // 2) if paper_shifts else (1, 1)
        self.shifts = ((0, 1), (0, -1), (1, 0), (-1, 0))
        if paper_shifts:
            self.shifts = ((-down, -right), (-down, right), (down, -right), (down, right))

    def forward(self, images: Tensor) -> Tensor:
        p, q = self.patch
        copies = [pad(images, (right, -right, down, -down)) for down, right in self.shifts]
        stacked = torch.cat([images, *copies], dim=1)
        return self.to_patch_tokens(rearrange(stacked, 'b c (h p) (w q) -> b (h w) (p q c)', p=p, q=q))


class ViT(HeadNormViT):
    attention = LSA

    def __init__(self, *, paper_shifts=False, **kwargs):
        self.paper_shifts = paper_shifts
        super().__init__(**kwargs)

    def patches(self, patch_size, channels, dim):
        return SPT(dim=dim, patch_size=patch_size, channels=channels, paper_shifts=self.paper_shifts)
