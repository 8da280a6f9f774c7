"""Images to patch tokens."""

from collections.abc import Callable, Sequence

from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.checks import pair, patch_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm


def patchify(images: Array, patch_size: int | Sequence[int]) -> Array:
    """Cuts images into patches, `[b (h p) (w q) c] -> [b h w (p q c)]`."""
    p, q = pair(patch_size)
    patch_grid(images.shape[1:3], patch_size, name='the height and width of the images')
    return rearrange(images, 'b (h p) (w q) c -> b h w (p q c)', p=p, q=q)


class PatchEmbedding(Module):
    """LayerNorm, Linear, LayerNorm on each patch, `[b H W c] -> [b h w d]`; `norm` is a constructor."""

    patch_size: int | Sequence[int]
    dim: int
    norm: Callable[..., nn.Module] = LayerNorm

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = patchify(images, self.patch_size)
        x = self.norm(**self.precision, name='patch_norm')(x)
        x = Dense(self.dim, **self.precision, name='projection')(x)
        return self.norm(**self.precision, name='norm')(x)

    torch_names = {'patch_norm': '1', 'projection': '2', 'norm': '3'}


class PatchProjection(Module):
    """Linear on each patch and no norm, `[b H W c] -> [b h w d]`."""

    patch_size: int | Sequence[int]
    dim: int

    @nn.compact
    def __call__(self, images: Array) -> Array:
        return Dense(self.dim, **self.precision, name='projection')(patchify(images, self.patch_size))

    torch_names = {'projection': '1'}
