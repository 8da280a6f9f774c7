"""Vision Transformers Need Registers, arXiv:2309.16588; upstream module `simple_vit_with_register_tokens`."""

import torch
from torch import Tensor, nn

from vit_torch_ref.models import simple_vit


class SimpleViT(simple_vit.SimpleViT):
    def __init__(self, *, num_register_tokens=4, dim, **kwargs):
        super().__init__(dim=dim, **kwargs)
        self.register_tokens = nn.Parameter(torch.randn(num_register_tokens, dim))

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        x = x + self.positions.to(x)
        patches = x.shape[1]
        x = torch.cat([x, self.register_tokens.expand(len(x), -1, -1)], dim=1)
        return self.linear_head(self.transformer(x)[:, :patches].mean(dim=1))
