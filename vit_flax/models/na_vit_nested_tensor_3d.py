"""Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution, arXiv:2307.06304.

vit-pytorch's `na_vit_nested_tensor_3d`: NaViT of volumes and videos of any size. A patch spans several
frames, frames have positions of their own too, and each volume gets a few learned registers
(arXiv:2309.16588) in front of its tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import Initializer, normal

from vit_flax.blocks.checks import check_divisible
from vit_flax.blocks.grids import Grid, video_grid
from vit_flax.blocks.precision import repeat
from vit_flax.card import ModelCard
from vit_flax.models.na_vit_nested_tensor import NestedViTBase


class NaViT(NestedViTBase, kw_only=True):
    """NaViT (arXiv:2307.06304) of volumes: packed volumes of any size to logits `[b i num_classes]`.

    Attributes:
      image_size: height and width of the largest frames in pixels, or one number for both.
      max_frames: of the longest volume.
      patch_size: height and width of a patch.
      frame_patch_size: frames of a patch.
      num_registers: learned tokens in front of each volume's.
    """

    image_size: int | Sequence[int]
    max_frames: int
    patch_size: int | Sequence[int]
    frame_patch_size: int
    num_registers: int = 4

    axes = ('frame', 'height', 'width')

    @property
    def grid(self) -> Grid:
        check_divisible('max_frames', self.max_frames, 'frame_patch_size', self.frame_patch_size)
        sizes = self.image_size, self.patch_size, self.max_frames, self.frame_patch_size
        grid = video_grid(*sizes, self.channels, 'patch_size')
        return replace(grid, size=f'max_frames={self.max_frames} with image_size={self.image_size}')

    @property
    def num_prefix_tokens(self) -> int:
        return self.num_registers

    def setup(self) -> None:
        super().setup()
        # upstream: everything before the transformer keeps its initial values and the rate of dropped tokens must be
        # given, as in `na_vit_nested_tensor`; that holds for the registers too. `train_embedding=True` trains them.
        shape = self.num_registers, self.dim
        self.register_tokens = self.param('register_tokens', normal(0.02), shape, self.param_dtype)

    def position_init(self) -> Initializer:
        return normal(0.02)

    def add_prefix(self, x: Array, slots: int) -> Array:
        """The registers of all slots in front of the patches, `[b n d] -> [b i*r+n d]`."""
        registers, x = self.promote(self.register_tokens, x)
        registers = repeat(registers, 'r d -> b (i r) d', b=x.shape[0], i=slots)
        return jnp.concatenate([registers, x], axis=1)

    def token_ids(self, image_ids: Array, slots: int) -> Array:
        of_registers = jnp.repeat(jnp.arange(slots), self.num_registers)
        of_registers = jnp.broadcast_to(of_registers, (len(image_ids), len(of_registers)))
        return jnp.concatenate([of_registers, image_ids], axis=1)


CARD = ModelCard(
    NaViT,
    title="Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution",
    arxiv='2307.06304',
    takes='packed volumes, or volume [b t h w c]',
    paper_size=dict(
        image_size=256,
        max_frames=8,
        patch_size=32,
        frame_patch_size=2,
        num_classes=1000,
        dim=1024,
        depth=6,
        heads=16,
        mlp_dim=2048,
    ),
)
