"""Adaptive Token Sampling, arXiv:2111.15667; upstream module `ats_vit`."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vit_torch_ref.blocks import FeedForward, pair, patch_embedding


def sample(significance: Tensor, mask: Tensor, limit: int, noise: Tensor | None) -> list[Tensor]:
    """The patches of each image that stay: `[b n]`, bool `[b n]`, `[b k n]` -> indices of n, one tensor an image."""
    share = significance / (significance.sum(dim=1, keepdim=True) + 1e-6)
    picks = []
    for index, (of_image, used) in enumerate(zip(share, mask, strict=True)):
        if noise is not None:
            logits = torch.where(used, (of_image + 1e-6).log(), torch.finfo(share.dtype).min / 2)
            # the noise has a column for each place there may be, the first of them are in use
            pick = (logits + noise[index, :, : len(used)]).argmax(dim=1)
        # upstream: draws in evaluation too; without noise the paper's fixed samples are taken.
        elif used.sum() <= limit:
            pick = used.nonzero()[:, 0]
        else:
            cumulated = of_image.cumsum(dim=0)
            places = torch.arange(1, 2 * limit, 2) / (2 * limit)
            pick = torch.searchsorted(cumulated, places.to(cumulated) * cumulated[-1])
        picks.append(pick.unique())
    return picks


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout, limit):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale, self.limit = heads, dim_head**-0.5, limit
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        scores = (q @ k.mT * self.scale).masked_fill(~mask[:, None, None], torch.finfo(x.dtype).min)
        weights = self.dropout(scores.softmax(dim=-1))
        stay = None
        if x.shape[1] - 1 > self.limit:
            significance = torch.einsum('b e n, b e n -> b n', weights[:, :, 0, 1:], v[:, :, 1:].norm(dim=-1))
            picks = sample(significance.detach(), mask[:, 1:], self.limit, noise)
            stay = pad_sequence([nn.functional.pad(pick + 1, (1, 0)) for pick in picks], batch_first=True)
            mask = stay > 0
            mask[:, 0] = True
            weights = torch.stack([of_image[:, rows] for of_image, rows in zip(weights, stay, strict=True)])
        return self.to_out(rearrange(weights @ v, 'b e n k -> b n (e k)')), mask, stay


class Transformer(nn.Module):
    def __init__(self, dim, limits, heads, dim_head, mlp_dim, dropout):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head, dropout, limit), FeedForward(dim, mlp_dim, dropout)])
            for limit in limits
        )

    def forward(self, x: Tensor, noise) -> tuple[Tensor, Tensor]:
        ids = torch.arange(x.shape[1]).expand(len(x), -1)
        mask = torch.ones_like(ids, dtype=torch.bool)
        for index, (attention, feedforward) in enumerate(self.layers):
            y, mask, stay = attention(x, mask, None if noise is None else noise[index])
            if stay is not None:
                x = torch.stack([of_image[rows] for of_image, rows in zip(x, stay, strict=True)])
                ids = ids.gather(1, stay)
            x = x + y
            x = x + feedforward(x)
        return x, ids


class ViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        max_tokens_per_depth,
        image_size,
        patch_size,
        channels=3,
        num_classes,
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + (h // p) * (w // q), dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = Transformer(dim, max_tokens_per_depth[:depth], heads, dim_head, mlp_dim, dropout)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, images: Tensor, return_sampled_token_ids=False, token_noise=None):
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.to_patch_embedding(images)], dim=1)
        x, ids = self.transformer(self.dropout(x + self.pos_embedding[:, : x.shape[1]]), token_noise)
        logits = self.mlp_head(x[:, 0])
        return (logits, ids[:, 1:] - 1) if return_sampled_token_ids else logits
