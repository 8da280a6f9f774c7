"""Students of arXiv:2012.12877; upstream module `distill`."""

import torch
from torch import Tensor

from vit_torch_ref.models import efficient, t2t, vit


class Distillable:
    def forward(self, images: Tensor, distill_token: Tensor | None = None):
        # upstream: its T2TViT and efficient ViT have class token and positions with a batch axis, its students expect
        # none: only the DistillableViT runs. Here both shapes are taken.
        patches = self.to_patches(images)
        cls, table = (value.reshape(-1, value.shape[-1]) for value in (self.cls_token, self.pos_embedding))
        x = torch.cat([cls.expand(len(images), -1, -1), patches], dim=1)
        x = x + table[: x.shape[1]]
        extra = 0 if distill_token is None else len(distill_token)
        if extra:
            x = torch.cat([x, distill_token.expand(len(images), -1, -1)], dim=1)
        x = self.transformer(x)
        kept = x[:, : x.shape[1] - extra]
        logits = self.mlp_head(kept[:, 0] if self.pool == 'cls' else kept.mean(dim=1))
        return (logits, x[:, -1]) if extra else logits

    def to_patches(self, images: Tensor) -> Tensor:
        return self.to_patch_embedding(images)


class DistillableViT(Distillable, vit.ViT):
    pass


class DistillableT2TViT(Distillable, t2t.T2TViT):
    def to_patches(self, images: Tensor) -> Tensor:
        *splits, projection = self.to_patch_embedding
        return projection(torch.nn.Sequential(*splits)(images).mT)


class DistillableEfficientViT(Distillable, efficient.ViT):
    pass
