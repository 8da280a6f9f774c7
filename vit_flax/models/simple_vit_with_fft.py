"""SimpleViT that also reads the image's spectrum; vit-pytorch's `simple_vit_with_fft`, without a paper.

The two-dimensional Fourier transform of the image, real and imaginary parts as channels, is cut
into patches of its own, which stand before the image's patches and are not pooled.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from jax import Array

from vit_flax.blocks.checks import pair, patch_grid
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.models import simple_vit
from vit_flax.models.vit import published_size
from vit_flax.registry import Model


class SimpleViT(simple_vit.SimpleViT, kw_only=True):
    """SimpleViT with tokens of the spectrum (no paper): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      freq_patch_size: height and width of a patch of the spectrum; must divide the image's.
    """

    freq_patch_size: int | Sequence[int]

    def setup(self) -> None:
        patch_grid(self.image_size, self.freq_patch_size, patches='freq_patch_size')
        super().setup()
        self.to_freq_embedding = PatchEmbedding(self.freq_patch_size, self.dim, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Spectrum and image to tokens with positions, `[b h w c] -> [b n d]`; the spectrum's come first."""
        patches = super().embed(images, train)
        # there is no Fourier transform of 16-bit floats
        spectrum = jnp.fft.fft2(images.astype(jnp.promote_types(images.dtype, jnp.float32)), axes=(1, 2))
        spectrum = jnp.concatenate([spectrum.real, spectrum.imag], axis=-1).astype(images.dtype)
        x = self.to_freq_embedding(spectrum)
        x = rearrange(x, 'b h w d -> b (h w) d') + self.positions(*x.shape[1:3]).astype(x.dtype)
        return jnp.concatenate([x, patches], axis=1)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer over both kinds, of which the image's come out, `[b n d] -> [b m d]`."""
        patch, freq_patch = (math.prod(pair(size)) for size in (self.patch_size, self.freq_patch_size))
        frequencies = tokens.shape[1] * patch // (patch + freq_patch)
        return self.transformer(tokens, train=train)[:, frequencies:]


MODEL = Model(
    SimpleViT,
    title='SimpleViT with Fourier tokens',
    arxiv='',
    takes='image [b h w c]',
    paper_size=dict(**published_size(16, 384, 12, 6), freq_patch_size=16),
)
