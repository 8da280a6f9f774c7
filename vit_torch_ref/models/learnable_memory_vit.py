"""Fine-tuning Image Transformers using Learnable Memory, arXiv:2203.15243; upstream module `learnable_memory_vit`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer
from vit_torch_ref.models.vit import HeadNormViT


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, memories=None, allowed=None) -> Tensor:
        x = self.norm(x)
        seen = x if memories is None else torch.cat([x, memories.expand(len(x), -1, -1)], dim=1)
        q = rearrange(self.to_q(x), 'b n (e k) -> b e n k', e=self.heads)
        k, v = rearrange(self.to_kv(seen), 'b n (kv e k) -> kv b e n k', kv=2, e=self.heads)
        scores = q @ k.mT * self.scale
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        return self.to_out(rearrange(self.dropout(scores.softmax(dim=-1)) @ v, 'b e n k -> b n (e k)'))


class MemoryTransformer(Transformer):
    def forward(self, x: Tensor, memories=None, allowed=None) -> Tensor:
        of_layers = [None] * len(self.layers) if memories is None else memories
        for (attention, feedforward), of_layer in zip(self.layers, of_layers, strict=True):
            x = x + attention(x, of_layer, allowed)
            x = x + feedforward(x)
        return x


class ViT(HeadNormViT):
    def __init__(self, *, pool='cls', **kwargs):
        super().__init__(**kwargs)

    def trunk(self, dim, depth, heads, dim_head, mlp_dim, dropout):
        return MemoryTransformer(
            depth, lambda: Attention(dim, heads, dim_head, dropout), lambda: self.feedforward(dim, mlp_dim, dropout)
        )


class Adapter(nn.Module):
    def __init__(self, *, num_memories_per_layer=10, num_classes=2, vit):
        super().__init__()
        self.vit = vit.requires_grad_(False)
        _, tokens, dim = vit.pos_embedding.shape
        depth, memories = len(vit.transformer.layers), num_memories_per_layer
        self.memory_cls_token = nn.Parameter(torch.randn(dim))
        self.memories_per_layer = nn.Parameter(torch.randn(depth, memories, dim))
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))
        queries, keys = torch.arange(1 + tokens)[:, None], torch.arange(1 + tokens + memories)
        self.register_buffer('attn_mask', (queries == 0) | ((keys > 0) & (keys <= tokens)))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.vit.embed(images)
        x = torch.cat([self.memory_cls_token.expand(len(images), 1, -1), tokens], dim=1)
        n = x.shape[1]
        keys = [*range(n), *range(self.attn_mask.shape[1] - self.memories_per_layer.shape[1], self.attn_mask.shape[1])]
        allowed = self.attn_mask[:n][:, keys]
        return self.mlp_head(self.vit.transformer(x, self.memories_per_layer, allowed)[:, 0])
