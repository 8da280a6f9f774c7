"""SimpleViT that also reads the image's spectrum; upstream module `simple_vit_with_fft`."""

import torch
from torch import Tensor

from vit_torch_ref.blocks import pair, patch_embedding
from vit_torch_ref.models import simple_vit


class SimpleViT(simple_vit.SimpleViT):
    def __init__(self, *, freq_patch_size, image_size, channels=3, dim, **kwargs):
        super().__init__(image_size=image_size, channels=channels, dim=dim, **kwargs)
        (h, w), (p, q) = pair(image_size), pair(freq_patch_size)
        self.to_freq_embedding = patch_embedding((p, q), 2 * channels, dim)
        self.freq_positions = simple_vit.sincos_2d(h // p, w // q, dim)

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        spectrum = torch.fft.fft2(images)
        f = self.to_freq_embedding(torch.cat([spectrum.real, spectrum.imag], dim=1))
        x = torch.cat([f + self.freq_positions.to(f), x + self.positions.to(x)], dim=1)
        return self.linear_head(self.transformer(x)[:, f.shape[1] :].mean(dim=1))
