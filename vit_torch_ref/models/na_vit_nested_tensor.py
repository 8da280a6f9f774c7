"""NaViT on nested tensors, arXiv:2307.06304; upstream module `na_vit_nested_tensor`. Each image is computed alone."""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair, softmax_attention
from vit_torch_ref.models.na_vit import OneByOne, Transformer, feed_forward

unbiased_norm = partial(nn.LayerNorm, bias=False)


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout=0.0, qk_norm=True):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = unbiased_norm(dim)
        for name in ('queries', 'keys', 'values'):
            self.add_module(f'to_{name}', nn.Linear(dim, inner, bias=False))
        self.query_norm = unbiased_norm(dim_head) if qk_norm else nn.Identity()
        self.key_norm = unbiased_norm(dim_head) if qk_norm else nn.Identity()
        self.map_dropout = nn.Dropout(dropout)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        context = x if context is None else context
        projected = self.to_queries(x), self.to_keys(context), self.to_values(context)
        q, k, v = (rearrange(part, 'b n (e k) -> b e n k', e=self.heads) for part in projected)
        x = softmax_attention(self.query_norm(q), self.key_norm(k), v, self.scale, self.map_dropout)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class NestedNaViT(OneByOne):
    """Whatever the axes of the input; `tables` are the names of its positions and how many of each there are."""

    def __init__(
        self,
        tables,
        entries,
        *,
        dim,
        depth,
        heads,
        dim_head,
        mlp_dim,
        num_classes,
        dropout,
        emb_dropout,
        qk_rmsnorm,
        train_embedding,
    ):
        super().__init__()
        self.tables, self.train_embedding = [*tables], train_embedding
        self.to_patch_embedding = nn.Sequential(nn.LayerNorm(entries), nn.Linear(entries, dim), nn.LayerNorm(dim))
        for name, count in tables.items():
            self.register_parameter(name, nn.Parameter(torch.randn(count, dim)))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = Transformer(
            depth,
            lambda: Attention(dim, heads, dim_head, dropout, qk_rmsnorm),
            lambda: feed_forward(unbiased_norm, dim, mlp_dim, dropout),
            unbiased_norm(dim),
        )
        self.attn_pool_queries = nn.Parameter(torch.randn(dim))
        self.attn_pool = Attention(dim, heads, dim_head)
        self.mlp_head = nn.Sequential(unbiased_norm(dim), nn.Linear(dim, num_classes, bias=False))

    def patches(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def registers(self, x: Tensor) -> Tensor:
        return x

    def cut_off(self, x: Tensor) -> Tensor:
        # upstream: torch.nested.nested_tensor makes tensors without a history.
        return x if self.train_embedding else x.detach()

    def logits(self, images: Tensor, kept: Tensor | None) -> Tensor:
        # upstream: in training, token_dropout_prob=None raises a TypeError. Here nothing is dropped then.
        x = self.embed(self.patches(images), [getattr(self, name) for name in self.tables], kept)
        x = self.transformer(self.dropout(self.cut_off(self.registers(x))))
        query = self.cut_off(self.attn_pool_queries).expand(len(x), 1, -1)
        return self.mlp_head(self.attn_pool(query, x)[:, 0])


class NaViT(NestedNaViT):
    def __init__(
        self,
        *,
        image_size,
        patch_size,
        channels=3,
        dim_head=64,
        dropout=0.0,
        emb_dropout=0.0,
        qk_rmsnorm=True,
        token_dropout_prob=None,
        train_embedding=False,
        **sizes,
    ):
        (height, width), (p, q) = pair(image_size), pair(patch_size)
        tables = {'pos_embed_height': height // p, 'pos_embed_width': width // q}
        super().__init__(
            tables,
            channels * p * q,
            dim_head=dim_head,
            dropout=dropout,
            emb_dropout=emb_dropout,
            qk_rmsnorm=qk_rmsnorm,
            train_embedding=train_embedding,
            **sizes,
        )
        self.patch = p, q

    def patches(self, images: Tensor) -> Tensor:
        p, q = self.patch
        return rearrange(images, 'b c (h p) (w q) -> b h w (c p q)', p=p, q=q)
