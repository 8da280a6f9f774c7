"""Vision Transformers Need Registers, arXiv:2309.16588.

vit-pytorch's `simple_vit_with_register_tokens`: SimpleViT whose trunk also carries a few learned
tokens that belong to no patch and are thrown away before pooling.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class WithRegisters(SimpleViTBase, kw_only=True):
    """SimpleViT whose encoder reads registers too, and discards them.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      num_register_tokens: how many registers; may be 0.
      registers_first: whether they come before the patches.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_register_tokens: int = 4

    registers_first: ClassVar[bool] = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def setup(self) -> None:
        super().setup()
        shape = (self.num_register_tokens, self.dim)
        self.register_tokens = self.param('register_tokens', normal(1.0), shape, self.param_dtype)

    def registers(self, batch: int) -> Array:
        """The registers of a batch, `[b r d]`."""
        return repeat(self.register_tokens, 'r d -> b r d', b=batch)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer over patches and registers, which are discarded, `[b n d] -> [b n d]`."""
        x = jnp.concatenate(self.promote(tokens, self.registers(tokens.shape[0])), axis=1)
        return self.transformer(x, train=train)[:, : tokens.shape[1]]

    @property
    def num_prefix_tokens(self) -> int:
        return self.num_register_tokens if self.registers_first else 0

    @property
    def num_suffix_tokens(self) -> int:
        return 0 if self.registers_first else self.num_register_tokens


class SimpleViT(WithRegisters, kw_only=True):
    """SimpleViT with registers (arXiv:2309.16588): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    scan: bool = False
    remat: Remat = False


CARD = ModelCard(
    SimpleViT,
    title='Vision Transformers Need Registers',
    arxiv='2309.16588',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
