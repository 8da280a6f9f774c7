"""Attention over depth, after arXiv:2603.15031; upstream module `simple_vit_attn_residual`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import softmax_attention
from vit_torch_ref.models import simple_vit


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, cross=False):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim) if cross else None
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        context = x if context is None else self.norm_context(context)
        q = rearrange(self.to_q(x), 'b n (e k) -> b e n k', e=self.heads)
        k, v = rearrange(self.to_kv(context), 'b n (kv e k) -> kv b e n k', kv=2, e=self.heads)
        x = softmax_attention(q, k, v, q.shape[-1] ** -0.5)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class AttentionResidual(nn.Module):
    def __init__(self, branch, dim, heads, dim_head, learned_query, first=False):
        super().__init__()
        self.fn = branch
        self.attn = None if first else Attention(dim, heads, dim_head, cross=True)
        self.learned_query = nn.Parameter(torch.randn(dim)) if learned_query and not first else None

    def forward(self, states: list[Tensor]) -> Tensor:
        x = states[-1]
        if self.attn is not None:
            query = x if self.learned_query is None else self.learned_query.expand_as(x)
            history = torch.stack(states, dim=2).flatten(0, 1)
            x = self.attn(query.reshape(-1, 1, x.shape[-1]), history).reshape(x.shape)
        return self.fn(x)


class Transformer(nn.Module):
    def __init__(self, dim, depth, heads, dim_head, mlp_dim, learned_query):
        super().__init__()
        shared = (dim, heads, dim_head, learned_query)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    AttentionResidual(Attention(dim, heads, dim_head), *shared, first=i == 0),
                    AttentionResidual(simple_vit.FeedForward(dim, mlp_dim), *shared),
                ]
            )
            for i in range(depth)
        )
        self.final_pool = AttentionResidual(nn.LayerNorm(dim), *shared)

    def forward(self, states: list[Tensor]) -> Tensor:
        for block in self.layers:
            for residual in block:
                states.append(residual(states))
        return self.final_pool(states)


class SimpleViTAttnResidual(simple_vit.SimpleViT):
    def __init__(self, *, learned_query=True, dim, depth, heads, dim_head=64, mlp_dim, **kwargs):
        super().__init__(dim=dim, depth=0, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, **kwargs)
        self.transformer = Transformer(dim, depth, heads, dim_head, mlp_dim, learned_query)

    def forward(self, images: Tensor, history=(), return_history: bool = False):
        x = self.to_patch_embedding(images)
        states = [*history, x + self.positions.to(x)]
        logits = self.linear_head(self.transformer(states).mean(dim=1))
        return (logits, states) if return_history else logits
