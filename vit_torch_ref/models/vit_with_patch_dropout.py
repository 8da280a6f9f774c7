"""PatchDropout, arXiv:2208.07220; upstream module `vit_with_patch_dropout`. The draw is an argument."""

import torch
from torch import Tensor, nn

from vit_torch_ref.models.parallel_vit import patch_projection
from vit_torch_ref.models.vit import HeadNormViT


class ViT(HeadNormViT):
    patches = staticmethod(patch_projection)

    def __init__(self, *, patch_dropout=0.25, **kwargs):
        super().__init__(**kwargs)
        self.pos_embedding = nn.Parameter(self.pos_embedding[0, 1:].detach().clone())

    def forward(self, images: Tensor, kept_patches: Tensor | None = None) -> Tensor:
        x = self.to_patch_embedding(images)
        x = x + self.pos_embedding[: x.shape[1]]
        if kept_patches is not None:
            x = torch.stack([tokens[kept] for tokens, kept in zip(x, kept_patches, strict=True)])
        x = self.transformer(self.dropout(torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)))
        return self.mlp_head(x[:, 0] if self.pool == 'cls' else x.mean(dim=1))
