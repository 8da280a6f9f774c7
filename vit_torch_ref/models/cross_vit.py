"""CrossViT, arXiv:2103.14899; upstream module `cross_vit`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import FeedForward, Transformer, pair, patch_embedding, softmax_attention


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, others: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        seen = x if others is None else torch.cat([x, others], dim=1)
        q = rearrange(self.to_q(x), 'b n (e k) -> b e n k', e=self.heads)
        k, v = rearrange(self.to_kv(seen), 'b m (kv e k) -> kv b e m k', kv=2, e=self.heads)
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class Foreign(nn.Module):
    def __init__(self, here, there, *attention):
        super().__init__()
        same = here == there
        self.project_in = nn.Identity() if same else nn.Linear(here, there)
        self.project_out = nn.Identity() if same else nn.Linear(there, here)
        self.fn = Attention(there, *attention)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        return self.project_out(self.fn(self.project_in(x), others))


class Exchange(nn.Module):
    def __init__(self, small, large, depth, *attention):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Foreign(small, large, *attention), Foreign(large, small, *attention)]) for _ in range(depth)
        )

    def forward(self, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
        (small, small_patches), (large, large_patches) = (x.split([1, x.shape[1] - 1], dim=1) for x in (small, large))
        for from_small, from_large in self.layers:
            small = small + from_small(small, large_patches)
            large = large + from_large(large, small_patches)
        return torch.cat([small, small_patches], dim=1), torch.cat([large, large_patches], dim=1)


class Encoder(nn.Module):
    def __init__(self, depth, *parts):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(part() for part in parts) for _ in range(depth))

    def forward(self, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
        for encode_small, encode_large, exchange in self.layers:
            small, large = exchange(encode_small(small), encode_large(large))
        return small, large


class ImageEmbedder(nn.Module):
    def __init__(self, image_size, patch_size, channels, dim, dropout):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + (h // p) * (w // q), dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.to_patch_embedding(images)], dim=1)
        return self.dropout(x + self.pos_embedding[:, : x.shape[1]])


class CrossViT(nn.Module):
    """Takes `sm_enc_depth`, `lg_enc_depth` and so on for each key of ENCODER."""

    ENCODER = dict(depth=None, heads=8, mlp_dim=2048, dim_head=64)

    def __init__(
        self,
        *,
        sm_dim,
        lg_dim,
        depth=3,
        image_size,
        channels=3,
        num_classes,
        sm_patch_size=12,
        lg_patch_size=16,
        cross_attn_heads=8,
        cross_attn_dim_head=64,
        cross_attn_depth=2,
        emb_dropout=0.1,
        dropout=0.1,
        **encoders,
    ):
        super().__init__()

        def encoder(prefix, dim, default_depth):
            settings = {**self.ENCODER, 'depth': default_depth}
            settings |= {key: encoders.pop(f'{prefix}_enc_{key}', default) for key, default in settings.items()}
            return lambda: Transformer(
                settings['depth'],
                lambda: Attention(dim, settings['heads'], settings['dim_head'], dropout),
                lambda: FeedForward(dim, settings['mlp_dim'], dropout),
                dim=dim,
            )

        parts = (
            encoder('sm', sm_dim, 1),
            encoder('lg', lg_dim, 4),
            lambda: Exchange(sm_dim, lg_dim, cross_attn_depth, cross_attn_heads, cross_attn_dim_head, dropout),
        )
        if encoders:
            raise TypeError(f'unknown arguments {sorted(encoders)}')
        self.sm_image_embedder = ImageEmbedder(image_size, sm_patch_size, channels, sm_dim, emb_dropout)
        self.lg_image_embedder = ImageEmbedder(image_size, lg_patch_size, channels, lg_dim, emb_dropout)
        self.multi_scale_encoder = Encoder(depth, *parts)
        heads = (nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes)) for dim in (sm_dim, lg_dim))
        self.sm_mlp_head, self.lg_mlp_head = heads

    def forward(self, images: Tensor) -> Tensor:
        small, large = self.multi_scale_encoder(self.sm_image_embedder(images), self.lg_image_embedder(images))
        return self.sm_mlp_head(small[:, 0]) + self.lg_mlp_head(large[:, 0])
