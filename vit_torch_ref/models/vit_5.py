"""ViT-5: Vision Transformers for The Mid-2020s, arXiv:2602.08071; upstream module `vit_5`."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize

from vit_torch_ref import blocks
from vit_torch_ref.models.parallel_vit import patch_projection
from vit_torch_ref.models.rvt import turn


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.g = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.g * x.shape[-1] ** 0.5 * normalize(x, dim=-1)


class Attention(blocks.Attention):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__(dim, heads, dim_head, dropout)
        self.norm, self.q_norm, self.k_norm = RMSNorm(dim), RMSNorm(dim_head), RMSNorm(dim_head)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        q, k = turn(self.q_norm(q), angles), turn(self.k_norm(k), angles)
        x = blocks.softmax_attention(q, k, v, self.scale, self.dropout)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class FeedForward(blocks.FeedForward):
    def __init__(self, dim, hidden_dim, dropout):
        super().__init__(dim, hidden_dim, dropout)
        self.net[0] = RMSNorm(dim)


class Frequencies(nn.Module):
    def __init__(self, dim_head, registers):
        super().__init__()
        self.registers = registers
        for name, width, base in (('patch', dim_head // 2, 100_000), ('reg', dim_head, 100)):
            self.register_buffer(f'{name}_inv_freq', base ** (-torch.arange(0.0, width, 2) / width))

    def forward(self, rows: int, columns: int) -> Tensor:
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        of_patches = (places[..., None] * self.patch_inv_freq).flatten(start_dim=1)
        return torch.cat([torch.arange(self.registers)[:, None] * self.reg_inv_freq, of_patches])


class Transformer(nn.Module):
    def __init__(self, dim, depth, heads, dim_head, mlp_dim, dropout):
        super().__init__()
        self.layers, self.ls1, self.ls2 = nn.ModuleList(), nn.ParameterList(), nn.ParameterList()
        for _ in range(depth):
            block = Attention(dim, heads, dim_head, dropout), FeedForward(dim, mlp_dim, dropout)
            self.layers.append(nn.ModuleList(block))
            for scales in (self.ls1, self.ls2):
                scales.append(nn.Parameter(torch.full((dim,), 1e-4)))
        self.norm = RMSNorm(dim)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        for (attention, feedforward), first, second in zip(self.layers, self.ls1, self.ls2, strict=True):
            x = x + first * attention(x, angles)
            x = x + second * feedforward(x)
        return self.norm(x)


class ViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        image_size,
        patch_size,
        channels=3,
        num_classes,
        num_registers=4,
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), self.patch = blocks.pair(image_size), blocks.pair(patch_size)
        p, q = self.patch
        self.to_patch_embedding = patch_projection(self.patch, channels, dim)
        self.cls_token = nn.Parameter(torch.randn(1, dim))
        if num_registers:
            self.register_tokens = nn.Parameter(torch.randn(num_registers, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1 + num_registers + (h // p) * (w // q), dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.rotary_emb = Frequencies(dim_head, num_registers)
        self.transformer = Transformer(dim, depth, heads, dim_head, mlp_dim, dropout)
        self.mlp_head = nn.Linear(dim, num_classes) if num_classes else None

    def forward(self, images: Tensor) -> Tensor:
        extra = torch.cat([self.cls_token, *([self.register_tokens] if self.rotary_emb.registers else [])])
        x = torch.cat([extra.expand(len(images), -1, -1), self.to_patch_embedding(images)], dim=1)
        rows, columns = (size // step for size, step in zip(images.shape[2:], self.patch, strict=True))
        x = self.transformer(self.dropout(x + self.pos_embedding[: x.shape[1]]), self.rotary_emb(rows, columns))
        return x if self.mlp_head is None else self.mlp_head(x[:, 0])
