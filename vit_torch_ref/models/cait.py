"""Going deeper with Image Transformers, arXiv:2103.17239; upstream module `cait`. The draw of layers is an argument."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import FeedForward, pair, patch_embedding


class LayerScale(nn.Module):
    def __init__(self, dim, layer, fn):
        super().__init__()
        start = next(value for bound, value in ((18, 0.1), (24, 1e-5), (float('inf'), 1e-6)) if layer < bound)
        self.scale = nn.Parameter(torch.full((1, 1, dim), start))
        self.fn = fn

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        return self.scale * self.fn(x, *context)


class TalkingHeads(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.mix_heads_pre_attn, self.mix_heads_post_attn = (
            nn.Parameter(torch.randn(heads, heads)) for _ in ('before', 'after')
        )
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        x = self.norm(x)
        q = rearrange(self.to_q(x), 'b n (e k) -> b e n k', e=self.heads)
        kv = self.to_kv(torch.cat([x, *context], dim=1))
        k, v = rearrange(kv, 'b n (kv e k) -> kv b e n k', kv=2, e=self.heads)
        scores = torch.einsum('benm,ef->bfnm', q @ k.mT * self.scale, self.mix_heads_pre_attn)
        weights = self.dropout(scores.softmax(dim=-1))
        weights = torch.einsum('benm,ef->bfnm', weights, self.mix_heads_post_attn)
        return self.to_out(rearrange(weights @ v, 'b e n k -> b n (e k)'))


class Stack(nn.Module):
    def __init__(self, dim, depth, attention, feedforward):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(LayerScale(dim, layer, branch()) for branch in (attention, feedforward))
            for layer in range(depth)
        )

    def forward(self, x: Tensor, *context: Tensor, keep=None) -> Tensor:
        for index, (attention, feedforward) in enumerate(self.layers):
            if keep is None or keep[index]:
                x = x + attention(x, *context)
                x = x + feedforward(x)
        return x


class CaiT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        cls_depth,
        heads,
        dim_head=64,
        mlp_dim,
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
        self.pos_embedding = nn.Parameter(torch.randn(1, (h // p) * (w // q), dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.patch_transformer, self.cls_transformer = (
            Stack(
                dim,
                blocks,
                lambda: TalkingHeads(dim, heads, dim_head, dropout),
                lambda: FeedForward(dim, mlp_dim, dropout),
            )
            for blocks in (depth, cls_depth)
        )
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, images: Tensor, keep_layers=None, keep_cls_layers=None) -> Tensor:
        x = self.to_patch_embedding(images)
        x = self.patch_transformer(self.dropout(x + self.pos_embedding[:, : x.shape[1]]), keep=keep_layers)
        cls = self.cls_token.expand(len(images), -1, -1)
        return self.mlp_head(self.cls_transformer(cls, x, keep=keep_cls_layers)[:, 0])
