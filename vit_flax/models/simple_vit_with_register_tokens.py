"""Vision Transformers Need Registers, arXiv:2309.16588.

vit-pytorch's `simple_vit_with_register_tokens`: SimpleViT whose trunk also carries a few learned
tokens that belong to no patch and are thrown away before pooling.
"""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.precision import repeat
from vit_flax.models import simple_vit
from vit_flax.models.vit import published_size
from vit_flax.registry import Model


class WithRegisters(simple_vit.SimpleViTBase, kw_only=True):
    """SimpleViT's stages with registers behind the patches.

    Attributes:
      num_register_tokens: how many registers; may be 0.
    """

    num_register_tokens: int = 4

    # whether they stand before the patches
    registers_first: ClassVar[bool] = False

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


class SimpleViT(WithRegisters, simple_vit.SimpleViT, kw_only=True):
    """SimpleViT with registers (arXiv:2309.16588): images `[b h w c]` to logits `[b num_classes]`."""


MODEL = Model(
    SimpleViT,
    title='Vision Transformers Need Registers',
    arxiv='2309.16588',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
