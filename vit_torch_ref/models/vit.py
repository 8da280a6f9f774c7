"""An Image is Worth 16x16 Words, arXiv:2010.11929; upstream module `vit`."""

import torch
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention, FeedForward, Transformer, pair, patch_embedding


class ViT(nn.Module):
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
        pool='cls',
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.pool, self.num_classes = pool, num_classes
        cls_tokens = int(pool == 'cls')
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        self.cls_token = nn.Parameter(torch.randn(cls_tokens, dim))
        self.pos_embedding = nn.Parameter(torch.randn(cls_tokens + (h // p) * (w // q), dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = Transformer(
            depth,
            lambda: Attention(dim, heads, dim_head, dropout),
            lambda: FeedForward(dim, mlp_dim, dropout),
            dim=dim,
        )
        self.mlp_head = nn.Linear(dim, num_classes) if num_classes else None

    def forward(self, images: Tensor) -> Tensor:
        patches = self.to_patch_embedding(images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        x = self.transformer(self.dropout(x + self.pos_embedding[: x.shape[1]]))
        if self.mlp_head is None:
            return x
        return self.mlp_head(x[:, 0] if self.pool == 'cls' else x.mean(dim=1))


class HeadNormViT(nn.Module):
    """What most variants start from: class token always, a batch axis on what is learned, the last norm in the head."""

    attention = Attention
    feedforward = FeedForward
    patches = staticmethod(patch_embedding)

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
        pool='cls',
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.pool = pool
        self.to_patch_embedding = self.patches((p, q), channels, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + (h // p) * (w // q), dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = self.trunk(dim, depth, heads, dim_head, mlp_dim, dropout)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def trunk(self, dim, depth, heads, dim_head, mlp_dim, dropout):
        return Transformer(
            depth,
            lambda: self.attention(dim, heads, dim_head, dropout),
            lambda: self.feedforward(dim, mlp_dim, dropout),
        )

    def embed(self, images: Tensor) -> Tensor:
        patches = self.to_patch_embedding(images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        return self.dropout(x + self.pos_embedding[:, : x.shape[1]])

    def forward(self, images: Tensor) -> Tensor:
        x = self.transformer(self.embed(images))
        return self.mlp_head(x[:, 0] if self.pool == 'cls' else x.mean(dim=1))
