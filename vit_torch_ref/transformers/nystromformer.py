"""Nystromformer, arXiv:2102.03902; the package nystrom-attention, version 0.0.14."""

import torch
from einops import rearrange
from torch import Tensor, nn


def iterative_inverse(x: Tensor, iterations: int) -> Tensor:
    z = x.mT / (x.sum(dim=-1).max() * x.sum(dim=-2).max())
    one = torch.eye(x.shape[-1]).to(x)
    for _ in range(iterations):
        y = x @ z
        z = z @ (13 * one - y @ (15 * one - y @ (7 * one - y))) / 4
    return z


def masked_softmax(scores: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Rows and columns: bool `[b n]`, `[b m]`, or both None."""
    if rows is not None:
        allowed = (rows[:, :, None] & columns[:, None, :])[:, None]
        scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)


class NystromAttention(nn.Module):
    def __init__(self, dim, heads, dim_head, num_landmarks, pinv_iterations, kernel, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.num_landmarks, self.iterations = num_landmarks, pinv_iterations
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))
        if kernel:
            self.res_conv = nn.Conv2d(heads, heads, (kernel, 1), groups=heads, bias=False, padding=(kernel // 2, 0))
        self.convolves = bool(kernel)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = x.shape[1]
        filling = -tokens % self.num_landmarks
        x = nn.functional.pad(x, (0, 0, filling, 0))
        length = x.shape[1] // self.num_landmarks
        q, k, v = rearrange(self.to_qkv(x), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        count, landmarks = length, None
        if mask is not None:
            mask = nn.functional.pad(mask, (filling, 0))
            q, k, v = (t * mask[:, None, :, None] for t in (q, k, v))
            seen = rearrange(mask, 'b (m l) -> b m l', l=length).sum(dim=-1)
            count, landmarks = seen.clamp(min=1)[:, None, :, None], seen > 0
        q = q * self.scale
        q_mean, k_mean = (rearrange(t, 'b e (m l) k -> b e m l k', l=length).sum(dim=3) / count for t in (q, k))
        tokens_to_landmarks = masked_softmax(q @ k_mean.mT, mask, landmarks)
        among_landmarks = masked_softmax(q_mean @ k_mean.mT, landmarks, landmarks)
        landmarks_to_tokens = masked_softmax(q_mean @ k.mT, landmarks, mask)
        x = tokens_to_landmarks @ iterative_inverse(among_landmarks, self.iterations) @ (landmarks_to_tokens @ v)
        if self.convolves:
            x = x + self.res_conv(v)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))[:, filling:]


class FeedForward(nn.Module):
    def __init__(self, dim, dropout):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PreNorm(nn.Module):
    def __init__(self, dim, fn):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x: Tensor, *mask: Tensor | None) -> Tensor:
        return self.fn(self.norm(x), *mask)


class Nystromformer(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads=8,
        dim_head=64,
        pinv_iterations=6,
        num_landmarks=256,
        attn_dropout=0.0,
        ff_dropout=0.0,
        attn_values_residual_conv_kernel=33,
        attn_values_residual=True,
    ):
        super().__init__()
        kernel = attn_values_residual_conv_kernel if attn_values_residual else None
        attention = (heads, dim_head, num_landmarks, pinv_iterations, kernel, attn_dropout)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                PreNorm(dim, part) for part in (NystromAttention(dim, *attention), FeedForward(dim, ff_dropout))
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for attention, feedforward in self.layers:
            x = x + attention(x, mask)
            x = x + feedforward(x)
        return x
