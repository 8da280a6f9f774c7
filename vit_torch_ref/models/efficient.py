"""A ViT around any transformer; upstream module `efficient`."""

import torch
from torch import Tensor, nn

from vit_torch_ref.blocks import pair, patch_embedding


class ViT(nn.Module):
    def __init__(self, *, dim, transformer, image_size, patch_size, channels=3, num_classes, pool='cls'):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.pool = pool
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + (h // p) * (w // q), dim))
        self.transformer = transformer
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.to_patch_embedding(images)], dim=1)
        x = self.transformer(x + self.pos_embedding[:, : x.shape[1]])
        return self.mlp_head(x.mean(dim=1) if self.pool == 'mean' else x[:, 0])
