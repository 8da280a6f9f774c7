"""DetPool ViT, https://openreview.net/forum?id=NZDaMcpXZm; upstream module `vit_detpool`."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from vit_torch_ref.blocks import Attention, FeedForward, Transformer, pair, patch_embedding


class BrightMask(nn.Module):
    def __init__(self, threshold=0.0):
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=1) > self.threshold


class MaskedAttention(Attention):
    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        scores = q @ k.mT * self.scale
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None, None], torch.finfo(scores.dtype).min)
        return self.to_out(rearrange(self.dropout(scores.softmax(dim=-1)) @ v, 'b e n k -> b n (e k)'))


class MaskedTransformer(Transformer):
    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        for attention, feedforward in self.layers:
            x = x + attention(x, hidden)
            x = x + feedforward(x)
        return self.norm(x)


class ViTDetPool(nn.Module):
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
        use_cls_token=True,
        mask_generator=None,
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), self.patch = pair(image_size), pair(patch_size)
        p, q = self.patch
        self.mask_generator = mask_generator
        self.to_patch_embedding = patch_embedding(self.patch, channels, dim)
        self.pos_embedding = nn.Parameter(0.01 * torch.randn((h // p) * (w // q), dim))
        self.cls_token = nn.Parameter(0.01 * torch.randn(dim)) if use_cls_token else None
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = MaskedTransformer(
            depth,
            lambda: MaskedAttention(dim, heads, dim_head, dropout),
            lambda: FeedForward(dim, mlp_dim, dropout),
            dim=dim,
        )
        self.mlp_head = nn.Linear(dim, num_classes) if num_classes else None

    def forward(self, images: Tensor, object_mask: Tensor | None = None) -> Tensor:
        x = self.to_patch_embedding(images)
        n = x.shape[1]
        x = x + self.pos_embedding[:n]
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], dim=1)
        extra = x.shape[1] - n
        if object_mask is None and self.mask_generator is not None:
            object_mask = self.mask_generator(images).detach()
        hidden = None
        if object_mask is not None:
            if object_mask.shape[1:] == images.shape[2:]:
                object_mask = max_pool2d(object_mask.double(), self.patch).bool()
            seen = object_mask.flatten(start_dim=1)
            hidden = torch.cat([seen.new_zeros(len(seen), extra), ~seen], dim=1)
        x = self.transformer(self.dropout(x), hidden)
        if self.mlp_head is None:
            return x
        patches = x[:, extra:]
        if hidden is None:
            return self.mlp_head(patches.mean(dim=1))
        weights = seen.to(x)
        return self.mlp_head((weights[:, None] @ patches)[:, 0] / weights.sum(dim=1, keepdim=True).clamp(min=1e-5))
