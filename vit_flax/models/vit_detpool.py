"""DetPool ViT (Dantong Niu et al.), https://openreview.net/forum?id=NZDaMcpXZm.

vit-pytorch's `vit_detpool`: a ViT that takes a mask of an object, attends to the patches in it and
averages them. A mask generator, such as a frozen segmentation model, may stand in for the mask.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import reduce
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer, normal

from vit_flax.blocks.checks import pair, patch_grid
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.vit import ViTBase, published_size


class BrightMask(Module):
    """A mask generator to try things with: pixels brighter than a threshold, `[b h w c] -> bool [b h w]`."""

    threshold: float = 0.0

    @nn.compact
    def __call__(self, images: Array) -> Array:
        return images.mean(axis=-1) > self.threshold


def patches_of_mask(mask: Array, images: Array, patch_size: tuple[int, int]) -> Array:
    """A mask of pixels `[b h w]` or of patches `[b h' w']`, `[b n]` as one of patches, bool `[b n]`.

    A patch counts when one of its pixels does.
    """
    rows, columns = patch_grid(images.shape[1:3], patch_size, 'the height and width of the images')
    batch, p, q = images.shape[0], *patch_size
    if mask.shape == images.shape[:3]:
        mask = reduce(mask.astype(bool), 'b (h p) (w q) -> b h w', 'max', p=p, q=q)
    if mask.shape not in ((batch, rows, columns), (batch, rows * columns)):
        raise ValueError(
            f'object_mask of shape {mask.shape} must be a mask of pixels {images.shape[:3]} or of patches '
            f'{(batch, rows, columns)}, {(batch, rows * columns)}'
        )
    return mask.reshape(batch, math.prod(mask.shape[1:])).astype(bool)


class ViTDetPool(ViTBase, kw_only=True):
    """ViT that pools a masked object: images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      use_cls_token: whether a class token takes part in the attention. It gets no position and is
        never pooled, as upstream.
      mask_generator: a module that gives an object mask for images `[b h w c]` where the caller
        gives none; no gradient flows into it.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: a mask of another shape than the images' or their patches'.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    use_cls_token: bool = True
    mask_generator: nn.Module | None = None
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_cls_tokens(self) -> int:
        return 0

    @property
    def num_prefix_tokens(self) -> int:
        return int(self.use_cls_token)

    def token_init(self) -> Initializer:
        return normal(0.01)

    def setup(self) -> None:
        super().setup()
        if self.use_cls_token:
            self.cls_token = self.param('cls_token', self.token_init(), (self.dim,), self.param_dtype)

    def embed(self, images: Array, train: bool = False) -> Array:
        x = self.add_positions(self.patch_tokens(images))
        if self.use_cls_token:
            x = self.prepend(self.cls_token[None], x)
        return self.tap('embedding', self.embedding_dropout(x, deterministic=not train))

    def prefix_tokens(self) -> Array:
        return self.cls_token[None] if self.use_cls_token else super().prefix_tokens()

    def encode(self, tokens: Array, train: bool = False, mask: Array | None = None) -> Array:
        """The transformer, `[b n d] -> [b n d]`; `mask` bool `[b n]` of the tokens that are attended to."""
        return self.transformer(tokens, None if mask is None else mask[:, None, None], train=train)

    def pool_tokens(self, tokens: Array, train: bool = False, mask: Array | None = None) -> Array:
        """The average of the patches in `mask` bool `[b n]`, or of all, `[b n d] -> [b d]`."""
        patches = tokens[:, int(self.use_cls_token) :]
        if mask is None:
            return patches.mean(axis=1)
        total = jnp.where(mask[..., None], patches, 0).sum(axis=1)
        return total / jnp.maximum(mask.sum(axis=1, keepdims=True), 1e-5).astype(total.dtype)

    def classify(self, tokens: Array, train: bool = False, mask: Array | None = None) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        return self.mlp_head(self.tap('to_latent', self.pool_tokens(tokens, train, mask)))

    def __call__(self, images: Array, train: bool = False, object_mask: Array | None = None) -> Array:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: dropout.
          object_mask: bool, of pixels `[b h w]` or of patches `[b h' w']`, `[b n]`; where there is
            none the mask generator makes it, and without one all patches are used.
        """
        tokens = self.embed(images, train)
        if object_mask is None and self.mask_generator is not None:
            object_mask = jax.lax.stop_gradient(self.mask_generator(images))
        seen = mask = None
        if object_mask is not None:
            seen = mask = patches_of_mask(object_mask, images, pair(self.patch_size, 'patch_size'))
            if self.use_cls_token:
                seen = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        tokens = self.encode(tokens, train, seen)
        return self.classify(tokens, train, mask) if self.num_classes > 0 else tokens


CARD = ModelCard(
    ViTDetPool,
    title='DetPool ViT',
    arxiv='https://openreview.net/forum?id=NZDaMcpXZm',
    takes='image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
)
