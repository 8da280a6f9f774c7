"""Somebody's own ViT in PyTorch: vit-pytorch's mathematics, other names, an extra head, and a choice of GELU.

`python my_vit.py` writes my_vit.pth, which stands for a checkpoint that was trained.
"""

import torch
from einops import rearrange
from torch import nn


class MyAttention(nn.Module):
    def __init__(self, dim, heads, head_width):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_width, bias=False)
        self.proj = nn.Linear(heads * head_width, dim)

    def forward(self, x):
        q, k, v = rearrange(self.qkv(self.norm(x)), 'b n (s e k) -> s b e n k', s=3, e=self.heads)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(x, 'b e n k -> b n (e k)'))


class MyMlp(nn.Module):
    def __init__(self, dim, hidden, gelu):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU(approximate=gelu)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(self.norm(x))))


class MyBlock(nn.Module):
    def __init__(self, dim, heads, head_width, hidden, gelu):
        super().__init__()
        self.attn = MyAttention(dim, heads, head_width)
        self.mlp = MyMlp(dim, hidden, gelu)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class MyViT(nn.Module):
    def __init__(self, image=32, patch=8, classes=10, dim=24, depth=2, heads=3, head_width=16, hidden=40, gelu='none'):
        super().__init__()
        self.patch = patch
        width = 3 * patch * patch
        self.stem = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim), nn.LayerNorm(dim))
        self.token = nn.Parameter(torch.randn(1, dim))
        self.positions = nn.Parameter(torch.randn((image // patch) ** 2 + 1, dim))
        self.blocks = nn.ModuleList([MyBlock(dim, heads, head_width, hidden, gelu) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        self.aux_head = nn.Linear(dim, 2)  # used in training alone

    def forward(self, images):
        x = self.stem(rearrange(images, 'b c (h p) (w q) -> b (h w) (p q c)', p=self.patch, q=self.patch))
        x = torch.cat([self.token.expand(len(x), 1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


if __name__ == '__main__':
    torch.manual_seed(0)
    torch.save(MyViT().state_dict(), 'my_vit.pth')
