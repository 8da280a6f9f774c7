"""Masked patch prediction, appendix B.1.2 of arXiv:2010.11929; upstream module `mpp`.

What upstream draws is given: `masked` patches, which are `replaced`, which `randomised` and by which `sources`.
`mask_embedding` is the paper's, not upstream's.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair
from vit_torch_ref.objectives.encoder import patch_positions, prefix_tokens, take


class MPP(nn.Module):
    def __init__(
        self,
        *,
        dim,
        patch_size,
        channels=3,
        transformer,
        mean=None,
        std=None,
        max_pixel_val=1.0,
        output_channel_bits=3,
        mask_prob=0.15,
        replace_prob=0.5,
        random_patch_prob=0.5,
        mask_embedding=False,
    ):
        super().__init__()
        self.transformer, self.patch_size, self.channels = transformer, pair(patch_size), channels
        self.bits, self.largest, self.mask_embedding = output_channel_bits, max_pixel_val, mask_embedding
        self.mean, self.std = (None if values is None else torch.tensor(values).double() for values in (mean, std))
        self.patch_to_emb = nn.Sequential(transformer.to_patch_embedding[1:])
        self.to_bits = nn.Linear(dim, 2 ** (output_channel_bits * channels))
        pixels = channels * self.patch_size[0] * self.patch_size[1]
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim if mask_embedding else pixels))

    def labels(self, patches: Tensor) -> Tensor:
        """`[b n p] -> [b n]`."""
        colours = rearrange(patches, 'b n (p c) -> b n p c', c=self.channels)
        if self.mean is not None and self.std is not None:
            colours = colours * self.std + self.mean
        means = colours.clamp(max=self.largest).mean(dim=2)
        count = 2**self.bits
        edges = torch.tensor([self.largest * step / count for step in range(1, count)]).to(means)
        digits = (means[..., None] > edges).sum(dim=-1)
        return sum(digits[..., channel] * count**channel for channel in range(self.channels))

    def forward(self, images: Tensor, masked: Tensor, replaced: Tensor, randomised: Tensor, sources: Tensor) -> Tensor:
        patches = self.transformer.to_patch_embedding[0](images)
        labels = self.labels(patches)
        asked = torch.zeros(labels.shape, dtype=torch.bool).scatter(1, masked, True)
        patches = torch.where((asked & randomised)[..., None], take(patches, sources), patches)
        learned = (asked & replaced)[..., None]
        if self.mask_embedding:
            tokens = torch.where(learned, self.mask_token, self.patch_to_emb(patches))
        else:
            tokens = self.patch_to_emb(torch.where(learned, self.mask_token, patches))
        count = tokens.shape[1]
        tokens = tokens + patch_positions(self.transformer, count)
        tokens = torch.cat([prefix_tokens(self.transformer, len(images)), tokens], dim=1)
        logits = self.to_bits(self.transformer.transformer(tokens)[:, -count:])
        return nn.functional.cross_entropy(logits[asked], labels[asked])
