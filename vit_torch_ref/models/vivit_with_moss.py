"""MOSS in a ViViT, openreview.net/forum?id=Co6SCyBIjo; upstream module `vivit_with_moss`."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from vit_torch_ref.blocks import FeedForward
from vit_torch_ref.models import vivit


class FrameNorm(nn.Module):
    """Over the channels of `[b c h w]`, without bias."""

    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        return centred / torch.sqrt(variance + 1e-5) * self.gamma


class Encoder(nn.Module):
    def __init__(self, dim, steps, places, hidden):
        super().__init__()
        self.spatial_to_hidden = nn.Linear(places, hidden)
        stages = ((nn.Conv2d(hidden, hidden, 3, padding=1), FrameNorm(hidden), nn.GELU()) for _ in range(2))
        self.conv = nn.Sequential(*(layer for stage in stages for layer in stage))
        self.time_to_out = nn.Linear(steps * hidden, dim)

    def forward(self, similarities: Tensor) -> Tensor:
        b, t = similarities.shape[:2]
        x = rearrange(self.spatial_to_hidden(similarities), 'b t h w l d -> (b t l) d h w')
        return self.time_to_out(rearrange(self.conv(x), '(b t l) d h w -> b t h w (l d)', b=b, t=t))


class MOSS(nn.Module):
    def __init__(self, dim, hidden_dim=64, orders=2, causal=False, local_time=3, local_height=3, local_width=3):
        super().__init__()
        self.around, self.causal = (local_time, local_height, local_width), causal
        self.encoders = nn.ModuleList(
            Encoder(dim, local_time, local_height * local_width, hidden_dim) for _ in range(orders)
        )
        self.to_order_out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(orders))
        self.to_out = nn.Linear(dim, dim)

    def similarities(self, x: Tensor) -> Tensor:
        steps, rows, columns = self.around
        x = normalize(x, dim=-1)
        past = steps - 1 if self.causal else steps // 2
        around = pad(x, (0, 0, columns // 2, columns // 2, rows // 2, rows // 2, past, steps - 1 - past))
        for axis, size in enumerate(self.around, start=1):
            around = around.unfold(axis, size, 1)
        return torch.einsum('b t h w c, b t h w c l m n -> b t h w l m n', x, around).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        total = self.to_out(x)
        for encoder, to_out in zip(self.encoders, self.to_order_out, strict=True):
            x = encoder(self.similarities(x))
            total = total + to_out(x)
        return total


class CausalAttention(vivit.Attention):
    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = (q @ k.mT * self.scale).masked_fill(later, -torch.inf)
        return self.to_out(rearrange(self.dropout(scores.softmax(dim=-1)) @ v, 'b e n k -> b n (e k)'))


class ViViT(vivit.ViViT):
    # upstream: with pool='cls' and moss_causal the class token across time sees itself alone; `temporal_cls_last`
    # is ours.
    def __init__(
        self,
        *,
        dim,
        spatial_depth,
        temporal_depth,
        heads,
        dim_head=64,
        mlp_dim,
        num_classes,
        dropout=0.0,
        moss_causal=True,
        moss_orders=2,
        moss_hidden_dim=64,
        moss_local_time=3,
        moss_local_height=3,
        moss_local_width=3,
        temporal_cls_last=False,
        **kwargs,
    ):
        super().__init__(
            dim=dim,
            spatial_depth=spatial_depth,
            temporal_depth=0,
            heads=heads,
            dim_head=dim_head,
            mlp_dim=mlp_dim,
            num_classes=num_classes,
            dropout=dropout,
            **kwargs,
        )
        attention = CausalAttention if moss_causal else vivit.Attention
        self.temporal_transformer = vivit.Transformer(
            temporal_depth,
            dim,
            lambda: attention(dim, heads, dim_head, dropout),
            lambda: FeedForward(dim, mlp_dim, dropout),
        )
        around = moss_local_time, moss_local_height, moss_local_width
        self.moss = MOSS(dim, moss_hidden_dim, moss_orders, moss_causal, *around)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))
        self.cls_last = temporal_cls_last

    def forward(self, video: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = video.shape[3] // self.rows_of_patch
        x, seen = self.embed(video), self.seen(mask)
        x = self.spatial_transformer(x.flatten(0, 1)).view_as(x)
        cls = int(self.pool == 'cls')
        steps = self.moss(rearrange(x[:, :, cls:], 'b t (h w) d -> b t h w d', h=rows)).mean(dim=(2, 3))
        if not cls:
            return self.mlp_head(self.temporal_transformer(steps, seen).mean(dim=1))
        series = [self.temporal_cls_token.expand(len(x), -1, -1), x[:, :, 0] + steps]
        order = -1 if self.cls_last else 1
        if seen is not None:
            seen = torch.cat([torch.ones_like(seen[:, :1]), seen][::order], dim=1)
        return self.mlp_head(self.temporal_transformer(torch.cat(series[::order], dim=1), seen)[:, min(order, 0)])
