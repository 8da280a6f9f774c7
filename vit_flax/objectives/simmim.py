"""SimMIM: A Simple Framework for Masked Image Modeling, arXiv:2111.09886.

vit-pytorch's `simmim`: the encoder gets all patches, the masked ones as one learned token, and a linear layer
predicts the pixels of those. There is no decoder.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.averages import mean_of_each
from vit_flax.blocks.precision import repeat, to_float32
from vit_flax.blocks.torch_like import Dense
from vit_flax.objectives.encoder import (
    EncoderObjective,
    gather_tokens,
    has_class_token,
    mask_from_indices,
    patch_embedding_ties,
    scatter_tokens,
)
from vit_flax.objectives.masking import Masking, block_split, check_masking, masked_count, random_split, tube_split


def draw_mask(rng: Array, batch: int, num_patches: int, masking_ratio: float = 0.5) -> dict[str, Any]:
    """Indices of the masked patches of each image, `masked` int `[b m]`."""
    return {'masked': random_split(rng, batch, num_patches, masking_ratio)[0]}


def draw_tube_mask(rng: Array, batch: int, grid: Sequence[int], masking_ratio: float = 0.5) -> dict[str, Any]:
    """The same for videos: the same positions at every step of `grid` = (steps, rows, columns)."""
    return {'masked': tube_split(rng, batch, grid, masking_ratio)[0]}


def draw_block_mask(
    rng: Array, batch: int, grid: Sequence[int], block: Sequence[int], masking_ratio: float = 0.6
) -> dict[str, Any]:
    """The same in blocks of `block` patches, as in the paper."""
    return {'masked': block_split(rng, batch, grid, masking_ratio, block)[0]}


class SimMIM(EncoderObjective, kw_only=True):
    """SimMIM (arXiv:2111.09886): images `[b h w c]` to the error of the predicted pixels.

    Attributes:
      encoder: the model to train; see `vit_flax.objectives.encoder`.
      masking_ratio: fraction of the patches that is masked.
      mean_loss: the mean absolute error of the masked pixels, as in the paper; else it is divided by the number of
        masked patches of an image once more.
      class_token: patches attend to the encoder's class token too, as in the paper.
      mask_patch_size: side of the masked blocks in pixels, for all axes or each; None masks single patches.
      masking: which patches are masked, 'random' ones or, for videos, the same positions at every step, 'tube'.

    Raises:
      ValueError: an encoder that does not offer its patches, a ratio that masks none or all of them, blocks that
        are not made of patches, tubes of blocks or in what is no video.
    """

    encoder: Any
    masking_ratio: float = 0.5
    mean_loss: bool = False
    class_token: bool = False
    mask_patch_size: int | Sequence[int] | None = None
    masking: Masking = 'random'

    PAPER: ClassVar[Mapping[str, Any]] = dict(masking_ratio=0.6, mask_patch_size=32, mean_loss=True)

    @classmethod
    def paper(cls, encoder: nn.Module, **changes: Any) -> Self:
        """The paper's (section 4.1): 60 % masked, in blocks of 32 pixels, the mean absolute error; a class token if
        the encoder has one."""
        settings = {**cls.PAPER, 'class_token': has_class_token(encoder)}
        return cls(encoder=encoder, **{**settings, **changes})

    def setup(self) -> None:
        super().setup()
        encoder = self.encoder
        masked_count(self.masking_ratio, encoder.grid.num_patches)
        check_masking(self.masking, encoder.grid.patch)
        if self.masking == 'tube' and self.mask_patch_size is not None:
            raise ValueError(f"mask_patch_size={self.mask_patch_size} must be None with masking='tube'")
        self.prefix_length(self.class_token)
        self.mask_token = self.param('mask_token', normal(1.0), (encoder.dim,), self.param_dtype)
        self.to_pixels = Dense(encoder.grid.patch_dim, **self.precision)

    def draw(self, rng: Array, images: Array) -> dict[str, Any]:
        """`masked` for these images, as the settings say."""
        grid, batch = self.grid_of(images), len(images)
        if self.mask_patch_size is not None:
            return draw_block_mask(rng, batch, grid, self.block(), self.masking_ratio)
        if self.masking == 'tube':
            return draw_tube_mask(rng, batch, grid, self.masking_ratio)
        return draw_mask(rng, batch, math.prod(grid), self.masking_ratio)

    def block(self) -> tuple[int, ...]:
        """Patches of a masked block along each axis."""
        patch, size = tuple(self.encoder.grid.patch), self.mask_patch_size
        sizes = (size,) * len(patch) if size is None or isinstance(size, int) else tuple(size)
        if len(sizes) != len(patch) or any(pixels % length for pixels, length in zip(sizes, patch, strict=True)):
            raise ValueError(f'mask_patch_size={size} must be made of whole patches of {patch}')
        return tuple(pixels // length for pixels, length in zip(sizes, patch, strict=True))

    def predict(self, images: Array, masked: Array, train: bool = False) -> Array:
        """The predicted pixels of the masked patches, `[b m p]`."""
        tokens = self.encoder.embed_tokens(self.encoder.grid.patchify(images))
        mask = mask_from_indices(masked, tokens.shape[1])
        tokens, mask_token = self.promote(tokens, self.mask_token)
        # upstream: with its own ViT SimMIM raises an error, since the positions of that have no batch axis any more.
        # Where there is no class token it still takes the first of them for one's; here each patch has its own.
        mask_tokens = repeat(mask_token, 'd -> b n d', b=tokens.shape[0], n=tokens.shape[1])
        tokens = self.place(jnp.where(mask[..., None], mask_tokens, tokens), self.grid_of(images))
        encoded = self.encode(tokens, self.class_token, train)
        return self.to_pixels(gather_tokens(encoded[:, -tokens.shape[1] :], masked))

    def masks(self, images: Array, masked: Array | None) -> Array:
        """The caller's, or new ones from the rng `mask`."""
        return self.draw(self.make_rng('mask'), images)['masked'] if masked is None else masked

    def __call__(self, images: Array, masked: Array | None = None, train: bool = False) -> Array:
        """Mean absolute error of the masked pixels, see `mean_loss`, a scalar.

        Args:
          images: `[b h w c]`.
          masked: int `[b m]`, the masked patches of each image; drawn from the rng `mask` if left out.
          train: dropout.
        """
        return self.losses(images, masked, train).mean()

    def losses(self, images: Array, masked: Array | None = None, train: bool = False) -> Array:
        """The error of each image, `[b]`; arguments as for the call."""
        self.initialise_encoder(images)
        masked = self.masks(images, masked)
        target = to_float32(gather_tokens(self.encoder.grid.patchify(images), masked))
        losses = mean_of_each(jnp.abs(to_float32(self.predict(images, masked, train)) - target))
        # upstream: the loss, a mean already, is divided by the number of masked patches once more: its scale
        # depends on the size of the image and on the masking ratio.
        return losses if self.mean_loss else losses / masked.shape[1]

    def reconstruct(self, images: Array, masked: Array | None = None, train: bool = False) -> Array:
        """The images with their masked patches as predicted, `[b h w c] -> [b h w c]`; arguments as for the loss.

        Images of integers become float32.
        """
        masked = self.masks(images, masked)
        patches = self.encoder.grid.patchify(images)
        patches = scatter_tokens(patches, masked, self.predict(images, masked, train))
        return self.encoder.grid.unpatchify(patches, self.grid_of(images))

    torch_ties = patch_embedding_ties('encoder', 'patch_to_emb')
