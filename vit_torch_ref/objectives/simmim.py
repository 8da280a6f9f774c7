"""SimMIM, arXiv:2111.09886; upstream module `simmim`.

`masked` are the patches that upstream draws. Arguments after `masking_ratio` are the paper's, not upstream's.
"""

import torch
from torch import Tensor, nn

from vit_torch_ref.objectives.encoder import patch_positions, position_table, prefix_tokens, take


class SimMIM(nn.Module):
    def __init__(self, *, masking_ratio=0.5, encoder, mean_loss=False, class_token=False):
        super().__init__()
        self.encoder, self.mean_loss, self.class_token = encoder, mean_loss, class_token
        self.to_patch, *layers = encoder.to_patch_embedding
        self.patch_to_emb = nn.Sequential(*layers)
        dim, pixels = position_table(encoder).shape[1], layers[1].in_features
        self.mask_token = nn.Parameter(torch.randn(dim))
        self.to_pixels = nn.Linear(dim, pixels)

    def forward(self, images: Tensor, masked: Tensor) -> Tensor:
        patches = self.to_patch(images).flatten(1, -2)
        tokens = self.patch_to_emb(patches)
        rows = torch.arange(len(images))[:, None]
        tokens[rows, masked] = self.mask_token
        tokens = tokens + patch_positions(self.encoder, tokens.shape[1]).to(tokens)
        prefix = prefix_tokens(self.encoder, len(images))[:, : None if self.class_token else 0]
        encoded = self.encoder.transformer(torch.cat([prefix, tokens], dim=1))
        predicted = self.to_pixels(encoded[rows, prefix.shape[1] + masked])
        loss = (predicted - take(patches, masked)).abs().mean()
        return loss if self.mean_loss else loss / masked.shape[1]
