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
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class SimpleViT(SimpleViTBase, kw_only=True):
    """SimpleViT with tokens of the spectrum (no paper): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      freq_patch_size: height and width of a patch of the spectrum; must divide the image's.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    freq_patch_size: int | Sequence[int]
    scan: bool = False
    remat: Remat = False

    # its tokens of the spectrum are of the whole image
    can_embed_patches = can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_prefix_tokens(self) -> int:
        return math.prod(patch_grid(self.image_size, self.freq_patch_size, patches='freq_patch_size'))

    def setup(self) -> None:
        _ = self.num_prefix_tokens  # checks the sizes
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


CARD = ModelCard(
    SimpleViT,
    title='SimpleViT with Fourier tokens',
    arxiv='',
    takes='image [b h w c]',
    paper_size=dict(**published_size(16, 384, 12, 6), freq_patch_size=16),
)
