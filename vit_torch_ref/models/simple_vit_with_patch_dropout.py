"""FLIP, arXiv:2212.00794; upstream module `simple_vit_with_patch_dropout`. The draw is an argument."""

import torch
from torch import Tensor

from vit_torch_ref.models import simple_vit


class SimpleViT(simple_vit.SimpleViT):
    def __init__(self, *, patch_dropout=0.5, **kwargs):
        super().__init__(**kwargs)

    def forward(self, images: Tensor, kept_patches: Tensor | None = None) -> Tensor:
        x = self.to_patch_embedding(images)
        x = x + self.positions.to(x)
        if kept_patches is not None:
            x = torch.stack([tokens[kept] for tokens, kept in zip(x, kept_patches, strict=True)])
        return self.linear_head(self.transformer(x).mean(dim=1))
