"""Position Prediction as an Effective Pretraining Strategy, arXiv:2207.07611; upstream module `mp3`.

`visible` are the patches that upstream draws.
"""

import torch
from torch import Tensor, nn

from vit_torch_ref.objectives.encoder import take


class MP3(nn.Module):
    def __init__(self, *, masking_ratio, vit):
        super().__init__()
        self.vit = vit
        norm = vit.linear_head[0].normalized_shape
        self.mlp_head = nn.Sequential(nn.LayerNorm(norm), nn.Linear(*norm, vit.num_patches))

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        tokens = self.vit.to_patch_embedding(images).flatten(1, 2)
        logits = self.mlp_head(self.vit.transformer(tokens, take(tokens, visible)))
        places = torch.arange(logits.shape[1]).expand(len(images), -1)
        return nn.functional.cross_entropy(logits.mT, places)
