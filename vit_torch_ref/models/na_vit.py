"""NaViT, arXiv:2307.06304; upstream module `na_vit`. Each image is computed alone: packing must not matter.

The draw of the patches that stay is an argument.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair, softmax_attention


class GainNorm(nn.Module):
    """LayerNorm with a constant in the place of the bias."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer('beta', torch.zeros(width))
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * self.gamma + self.beta


class UnitNorm(nn.Module):
    """`[b e n k]`, a factor for each channel of each head."""

    def __init__(self, heads, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12) * x.shape[-1] ** 0.5 * self.gamma


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout=0.0):
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm = GainNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.q_norm, self.k_norm = UnitNorm(heads, dim_head), UnitNorm(heads, dim_head)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner, dim, bias=False), nn.Dropout(dropout))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        q = rearrange(self.to_q(x), 'b n (e k) -> b e n k', e=self.heads)
        k, v = rearrange(self.to_kv(x if context is None else context), 'b n (s e k) -> s b e n k', s=2, e=self.heads)
        x = softmax_attention(self.q_norm(q), self.k_norm(k), v, 1.0, self.dropout)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


def feed_forward(norm, dim, hidden, dropout) -> nn.Sequential:
    expand, contract = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
    return nn.Sequential(norm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract, nn.Dropout(dropout))


class Transformer(nn.Module):
    """`attention` and `feedforward` make one each, `norm` is the last one."""

    def __init__(self, depth, attention, feedforward, norm):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([attention(), feedforward()]) for _ in range(depth))
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        for attention, feedforward in self.layers:
            x = x + attention(x)
            x = x + feedforward(x)
        return self.norm(x)


def in_order(images) -> list[Tensor]:
    """Images, or lists of them, as one list."""
    return [one for image in images for one in (image if isinstance(image, list) else [image])]


class OneByOne(nn.Module):
    """Images of any sizes to logits, each computed alone by `logits`."""

    def forward(self, images, kept_tokens=None, **grouping) -> Tensor:
        if torch.is_tensor(images):
            return self.logits(images, kept_tokens)
        images = in_order(images)
        kept_tokens = [None] * len(images) if kept_tokens is None else [kept[None] for kept in kept_tokens]
        return torch.cat([self.logits(image[None], kept) for image, kept in zip(images, kept_tokens, strict=True)])

    def embed(self, patches: Tensor, tables: list[Tensor], kept: Tensor | None) -> Tensor:
        """`[b *grid (c p q)]` to tokens `[b n d]` with the sum of the positions along the axes."""
        places = sum(
            table[:count].reshape(*(count if i == axis else 1 for i in range(len(tables))), -1)
            for axis, (table, count) in enumerate(zip(tables, patches.shape[1:], strict=False))
        )
        x = (self.to_patch_embedding(patches) + places).flatten(1, -2)
        return x if kept is None else torch.stack([of_image[rows] for of_image, rows in zip(x, kept, strict=True)])


class NaViT(OneByOne):
    def __init__(
        self,
        *,
        image_size,
        patch_size,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        num_classes,
        channels=3,
        dropout=0.0,
        emb_dropout=0.0,
        token_dropout_prob=None,
    ):
        super().__init__()
        (height, width), self.patch = pair(image_size), pair(patch_size)
        p, q = self.patch
        entries = channels * p * q
        self.to_patch_embedding = nn.Sequential(GainNorm(entries), nn.Linear(entries, dim), GainNorm(dim))
        self.pos_embed_height = nn.Parameter(torch.randn(height // p, dim))
        self.pos_embed_width = nn.Parameter(torch.randn(width // q, dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = Transformer(
            depth,
            lambda: Attention(dim, heads, dim_head, dropout),
            lambda: feed_forward(GainNorm, dim, mlp_dim, dropout),
            GainNorm(dim),
        )
        self.attn_pool_queries = nn.Parameter(torch.randn(dim))
        self.attn_pool = Attention(dim, heads, dim_head)
        self.mlp_head = nn.Sequential(GainNorm(dim), nn.Linear(dim, num_classes, bias=False))

    def logits(self, images: Tensor, kept: Tensor | None) -> Tensor:
        p, q = self.patch
        patches = rearrange(images, 'b c (h p) (w q) -> b h w (c p q)', p=p, q=q)
        x = self.embed(patches, [self.pos_embed_height, self.pos_embed_width], kept)
        x = self.transformer(self.dropout(x))
        query = self.attn_pool_queries.expand(len(x), 1, -1)
        return self.mlp_head((self.attn_pool(query, x) + query)[:, 0])
