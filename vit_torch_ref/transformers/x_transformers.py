"""The encoder of the package x-transformers, version 2.31.10, with the options that vit_flax has."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize


class LayerNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:]) * (1 + self.gamma)


class RMSNorm(nn.Module):
    def __init__(self, dim, factors):
        super().__init__()
        self.length = dim**0.5
        self.g = nn.Parameter(torch.zeros(factors)) if factors else 0.0

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, dim=-1) * self.length * (1 + self.g)


class ReluSquared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() ** 2


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout, qk_norm, qk_norm_scale):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.qk_norm = heads, qk_norm
        self.scale = qk_norm_scale if qk_norm else dim_head**-0.5
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Linear(inner, dim, bias=False) if heads > 1 else nn.Identity()

    def forward(self, x: Tensor, earlier: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k, v = (rearrange(to(x), 'b n (e k) -> b e n k', e=self.heads) for to in (self.to_q, self.to_k, self.to_v))
        if self.qk_norm:
            q, k = normalize(q, dim=-1), normalize(k, dim=-1)
        scores = q @ k.mT * self.scale
        if earlier is not None:
            scores = scores + earlier
        allowed = scores
        if mask is not None:
            allowed = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        # upstream: the softmax is taken in float32 whatever the dtype (but for attn_qk_norm), so float64 rounds there.
        weights = self.dropout(allowed.softmax(dim=-1))
        x = self.to_out(rearrange(weights @ v, 'b e n k -> b n (e k)'))
        return (x if mask is None else x * mask[:, :, None]), scores


class GLU(nn.Module):
    def __init__(self, dim, inner, activation):
        super().__init__()
        self.proj, self.activation = nn.Linear(dim, 2 * inner), activation

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.proj(x).tensor_split(2, dim=-1)
        return values * self.activation(gates)


class FeedForward(nn.Module):
    def __init__(self, dim, mult, glu, activation, dropout):
        super().__init__()
        inner = int(dim * mult)
        first = GLU(dim, inner, activation) if glu else nn.Sequential(nn.Linear(dim, inner), activation)
        self.ff = nn.Sequential(first, nn.Dropout(dropout), nn.Linear(inner, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class Encoder(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads=8,
        attn_dim_head=64,
        attn_dropout=0.0,
        attn_qk_norm=False,
        attn_qk_norm_scale=10,
        residual_attn=False,
        ff_mult=4,
        ff_glu=False,
        ff_swish=False,
        ff_relu_squared=False,
        ff_dropout=0.0,
        use_rmsnorm=False,
        use_simple_rmsnorm=False,
        use_scalenorm=False,
    ):
        super().__init__()
        self.residual_attn = residual_attn

        def norm():
            if use_rmsnorm or use_simple_rmsnorm or use_scalenorm:
                return RMSNorm(dim, dim if use_rmsnorm else int(use_scalenorm))
            return LayerNorm(dim)

        activation = nn.SiLU() if ff_swish else ReluSquared() if ff_relu_squared else nn.GELU()
        self.layers = nn.ModuleList()
        for _ in range(depth):
            for part in (
                Attention(dim, heads, attn_dim_head, attn_dropout, attn_qk_norm, attn_qk_norm_scale),
                FeedForward(dim, ff_mult, ff_glu, activation, ff_dropout),
            ):
                self.layers.append(nn.ModuleList([nn.ModuleList([norm()]), part]))
        self.final_norm = norm()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = None
        for (norms, part), kind in zip(self.layers, 'af' * (len(self.layers) // 2), strict=True):
            y = norms[0](x)
            if kind == 'a':
                y, new_scores = part(y, scores, mask)
                scores = new_scores if self.residual_attn else None
            else:
                y = part(y)
            x = x + y
        return self.final_norm(x)
