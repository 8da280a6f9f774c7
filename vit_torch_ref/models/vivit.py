"""ViViT: A Video Vision Transformer, arXiv:2103.15691; upstream module `vivit`."""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import FeedForward, pair
from vit_torch_ref.models.vit_3d import video_patches


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm, self.to_qkv = nn.LayerNorm(dim), nn.Linear(dim, 3 * inner, bias=False)
        # upstream: the fused path drops attention maps in evaluation too.
        self.dropout = nn.Dropout(dropout)
        bare = heads == 1 and dim_head == dim
        self.to_out = nn.Identity() if bare else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        scores = q @ k.mT * self.scale
        if seen is not None:
            scores = scores.masked_fill(~seen[:, None, None], torch.finfo(scores.dtype).min)
        return self.to_out(rearrange(self.dropout(scores.softmax(dim=-1)) @ v, 'b e n k -> b n (e k)'))


class Transformer(nn.Module):
    def __init__(self, depth, dim, attention, feedforward):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([attention(), feedforward()]) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        for attention, feedforward in self.layers:
            x = x + attention(x, seen)
            x = x + feedforward(x)
        return self.norm(x)


class FactorizedTransformer(nn.Module):
    def __init__(self, depth, dim, attention, feedforward):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([attention(), attention(), feedforward()]) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        n = x.shape[2]
        for space, time, feedforward in self.layers:
            x = x + space(x.flatten(0, 1)).view_as(x)
            series = rearrange(x, 'b t n d -> (b n) t d')
            series = series + time(series, None if seen is None else seen.repeat_interleave(n, dim=0))
            x = rearrange(series, '(b n) t d -> b t n d', n=n)
            x = x + feedforward(x)
        return self.norm(x)


class ViViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        spatial_depth,
        temporal_depth,
        heads,
        dim_head=64,
        mlp_dim,
        frames,
        frame_patch_size,
        image_size,
        image_patch_size,
        channels=3,
        num_classes,
        pool='cls',
        variant='factorized_encoder',
        use_flash_attn=True,
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(image_patch_size)
        self.pool, self.frame_patch_size, self.rows_of_patch = pool, frame_patch_size, p
        self.to_patch_embedding = video_patches(frame_patch_size, (p, q), channels, dim, 't (h w)')
        self.pos_embedding = nn.Parameter(torch.randn(1, frames // frame_patch_size, (h // p) * (w // q), dim))
        self.dropout = nn.Dropout(emb_dropout)
        parts = partial(Attention, dim, heads, dim_head, dropout), partial(FeedForward, dim, mlp_dim, dropout)
        self.encoder = variant == 'factorized_encoder'
        if pool == 'cls':
            self.spatial_cls_token = nn.Parameter(torch.randn(1, 1, dim))
        if pool == 'cls' and self.encoder:
            self.temporal_cls_token = nn.Parameter(torch.randn(1, 1, dim))
        if self.encoder:
            self.spatial_transformer = Transformer(spatial_depth, dim, *parts)
            self.temporal_transformer = Transformer(temporal_depth, dim, *parts)
        else:
            self.factorized_transformer = FactorizedTransformer(spatial_depth, dim, *parts)
        self.mlp_head = nn.Linear(dim, num_classes)

    def embed(self, video: Tensor) -> Tensor:
        x = self.to_patch_embedding(video)
        b, t, n, _ = x.shape
        x = x + self.pos_embedding[:, :t, :n]
        if self.pool == 'cls':
            x = torch.cat([self.spatial_cls_token.expand(b, t, 1, -1), x], dim=2)
        return self.dropout(x)

    def seen(self, mask: Tensor | None) -> Tensor | None:
        return None if mask is None else mask.unflatten(1, (-1, self.frame_patch_size)).all(dim=2)

    def forward(self, video: Tensor, mask: Tensor | None = None) -> Tensor:
        x, seen = self.embed(video), self.seen(mask)
        if not self.encoder:
            x = self.factorized_transformer(x, seen)
            return self.mlp_head(x[:, 0, 0] if self.pool == 'cls' else x.mean(dim=(1, 2)))
        x = self.spatial_transformer(x.flatten(0, 1)).view_as(x)
        if self.pool == 'mean':
            return self.mlp_head(self.temporal_transformer(x.mean(dim=2), seen).mean(dim=1))
        x = torch.cat([self.temporal_cls_token.expand(len(x), -1, -1), x[:, :, 0]], dim=1)
        if seen is not None:
            seen = torch.cat([torch.ones_like(seen[:, :1]), seen], dim=1)
        return self.mlp_head(self.temporal_transformer(x, seen)[:, 0])
