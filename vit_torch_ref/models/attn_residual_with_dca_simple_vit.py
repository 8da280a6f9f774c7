"""Attention Residuals, arXiv:2603.15031, and DeepCrossAttention, arXiv:2502.06785.

Upstream module `attn_residual_with_dca_simple_vit`.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair, patch_embedding, softmax_attention


def sincos_2d(h: int, w: int, dim: int, temperature: float) -> Tensor:
    # upstream: the position table is computed in float32, whose sines differ between builds of torch.
    frequencies = float(temperature) ** -torch.linspace(0, 1, dim // 4, dtype=torch.float64)
    places = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    y, x = (place.reshape(-1, 1) * frequencies for place in places)
    return torch.cat([f(axis) for axis in (x, y) for f in (torch.sin, torch.cos)], dim=1)


class GroupedLinear(nn.Module):
    def __init__(self, dim, features, groups, bias):
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(dim, features).weight.detach())
        self.bias = nn.Parameter(torch.zeros(features)) if bias else None
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        outputs = [part @ weight.T for part, weight in zip(x, self.weight.chunk(self.groups), strict=True)]
        x = torch.cat(outputs, dim=-1)
        return x if self.bias is None else x + self.bias


def linear(dim, features, groups=1, bias=False):
    return nn.Linear(dim, features, bias=bias) if groups == 1 else GroupedLinear(dim, features, groups, bias)


class DepthMixture(nn.Module):
    def __init__(self, dim, streams, heads, eps):
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=eps)
        self.pseudo_queries = nn.Parameter(torch.zeros((streams, heads, dim)))

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        """Per stream, `[g b n d]`, or `[b n d]` for one head."""
        values = torch.stack(states)
        mixed = []
        for queries in self.pseudo_queries:
            shares = torch.einsum('l b n d, g d -> g l b n', self.norm(values), queries).softmax(dim=1)
            mixed.append(torch.stack([(share.unsqueeze(-1) * values).sum(dim=0) for share in shares]))
        return [stream[0] if len(stream) == 1 else stream for stream in mixed]


class Attention(nn.Module):
    def __init__(self, groups, gate, eps, dim, heads, dim_head):
        super().__init__()
        self.heads = heads
        for part in 'qkv':
            self.add_module(f'norm_{part}', nn.RMSNorm(dim, eps=eps))
            self.add_module(f'to_{part}', linear(dim, heads * dim_head, groups))
        self.to_gate = nn.Sequential(linear(dim, heads, groups), nn.Sigmoid()) if gate else None
        self.to_out = linear(heads * dim_head, dim)

    def forward(self, for_q: Tensor, for_k: Tensor, for_v: Tensor) -> Tensor:
        for_q = self.norm_q(for_q)
        projected = self.to_q(for_q), self.to_k(self.norm_k(for_k)), self.to_v(self.norm_v(for_v))
        q, k, v = (rearrange(x, 'b n (e k) -> b e n k', e=self.heads) for x in projected)
        x = softmax_attention(q, k, v, q.shape[-1] ** -0.5)
        if self.to_gate is not None:
            x = x * rearrange(self.to_gate(for_q), 'b n e -> b e n 1')
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


def feed_forward(dim, hidden_dim, groups=1):
    expand, contract = linear(dim, hidden_dim, groups, bias=True), linear(hidden_dim, dim, bias=True)
    return nn.Sequential(nn.LayerNorm(dim), expand, nn.GELU(), contract)


class Block(nn.Module):
    def __init__(self, dim, heads, dim_head, mlp_dim, per_head, ffn_heads, gate, eps):
        super().__init__()
        groups = heads if per_head else 1
        self.attn_res = DepthMixture(dim, 3, groups, eps)
        self.attn = Attention(groups, gate, eps, dim, heads, dim_head)
        self.ffn_res = DepthMixture(dim, 1, ffn_heads, eps) if ffn_heads > 1 else None
        self.ff = feed_forward(dim, mlp_dim, ffn_heads)

    def forward(self, states: list[Tensor]) -> Tensor:
        for_q, for_k, for_v = self.attn_res(states)
        x = self.attn(for_q, for_k, for_v) + (for_v if for_v.ndim == 3 else for_v.mean(dim=0))
        return x + self.ff(x if self.ffn_res is None else self.ffn_res([*states, x])[0])


class Transformer(nn.Module):
    def __init__(self, depth, dim, *block, eps):
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=eps)
        self.layers = nn.ModuleList(Block(dim, *block, eps) for _ in range(depth))

    def forward(self, states: list[Tensor]) -> Tensor:
        for block in self.layers:
            states = [*states, block(states)]
        return self.norm(states[-1])


class SimpleViT(nn.Module):
    def __init__(
        self, *, dim, depth, heads, dim_head=64, mlp_dim, gate=True, per_head=False, ffn_heads=1, eps=1e-6,
        temperature=10000, image_size, patch_size, channels=3, num_classes,
    ):  # fmt: skip
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        for place, width in ((1, p * q * channels), (3, dim)):
            self.to_patch_embedding[place] = nn.LayerNorm(width, bias=False)
        self.positions = sincos_2d(h // p, w // q, dim, temperature)
        self.initial_ff = feed_forward(dim, mlp_dim)
        self.transformer = Transformer(depth, dim, heads, dim_head, mlp_dim, per_head, ffn_heads, gate, eps=eps)
        self.linear_head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        x = x + self.positions.to(x)
        return self.linear_head(self.transformer([x, self.initial_ff(x)]).mean(dim=1))
