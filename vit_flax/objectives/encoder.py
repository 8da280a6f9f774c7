"""What an encoder offers to an objective that masks its patches, and what such objectives share.

The contract of models with `can_embed_patches`, most of those that derive from `ViTBase` and `SimpleViTBase`:

- `grid`: a `vit_flax.blocks.grids.Grid`, which cuts images into patches and puts them together again;
- `embed_tokens(patches)`: each patch to a token without a position embedding, `[b n p] -> [b n d]`;
- `patch_positions(grid)`: the position embeddings of a grid of patches, `[n d]`; `num_positions`: rows of the table;
- `prefix_tokens()`: tokens before the patches, with their positions, `[m d]`, a class token or nothing;
- `encode(tokens, train)`: the transformer, `[b n d] -> [b n d]`, for any subset of the tokens;
- `dim`, `channels` and `example_input()`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.precision import add, repeat, to_float32
from vit_flax.objectives.objective import Objective
from vit_flax.objectives.objective import encoder_variables as encoder_variables
from vit_flax.weights.table import LEAVES


def check_encoder(encoder: nn.Module) -> None:
    """Raises a ValueError unless the encoder embeds patches one by one."""
    if not getattr(encoder, 'can_embed_patches', False):
        raise ValueError(
            f'encoder={type(encoder).__name__} cannot be trained on its patches, since it does not embed them one by '
            'one: take a model such as vit, simple_vit, deepvit or vit_3d (see vit_flax.objectives.encoder)'
        )


class EncoderObjective(Objective, kw_only=True):
    """An objective that trains one encoder on its patches.

    The encoder is an argument: any model that offers the contract at the head of this file.

    Raises:
      ValueError: the encoder does not offer the contract.
    """

    def setup(self) -> None:
        check_encoder(self.given_encoder)
        if self.encoder_argument != 'encoder':
            self.encoder = self.given_encoder.clone(_deep_clone=True)

    def initialise_encoder(self, images: Array) -> None:
        """Initialises all of the encoder's variables, also those that the objective does not use, such as its head."""
        if self.is_initializing():
            self.encoder(images)

    def prefix_length(self, class_token: bool) -> int:
        """Number of tokens before the patches if the class token is wanted; raises if there is none."""
        count = len(self.encoder.prefix_tokens()) if class_token else 0
        if class_token and not count:
            raise ValueError(f'class_token=True: encoder={type(self.encoder).__name__} has no token before its patches')
        return count

    def grid_of(self, images: Array) -> tuple[int, ...]:
        """Patches along each axis of these images."""
        check_encoder(self.given_encoder)
        return self.given_encoder.grid.shape_of(images)

    def place(self, tokens: Array, grid: Sequence[int]) -> Array:
        """Tokens plus the positions of their patches, `[b n d] -> [b n d]`."""
        return add(tokens, self.encoder.patch_positions(grid).astype(tokens.dtype))

    def encode(self, tokens: Array, class_token: bool = False, train: bool = False) -> Array:
        """The encoder's transformer, `[b n d] -> [b n d]`.

        Args:
          tokens: of patches, any number of them.
          class_token: they attend to the encoder's prefix tokens too, which then come first in the result.
          train: dropout.
        """
        if class_token:
            prefix = self.encoder.prefix_tokens().astype(tokens.dtype)
            tokens = jnp.concatenate([repeat(prefix, 'm d -> b m d', b=tokens.shape[0]), tokens], axis=1)
        name = type(self.encoder).__name__
        try:
            encoded = self.encoder.encode(tokens, train=train)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f'encoder={name} cannot encode {tokens.shape[1]} tokens of patches: {error}') from error
        if encoded.shape != tokens.shape:
            raise ValueError(
                f'encoder={name} returns tokens of shape {encoded.shape} for tokens of shape {tokens.shape}: '
                'it must return one for each'
            )
        return encoded

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Images that fit, for tracing."""
        return self.given_encoder.example_input()


def has_class_token(encoder: nn.Module) -> bool:
    """Whether an encoder has tokens before its patches: a class token, perhaps registers."""
    return getattr(encoder, 'num_prefix_tokens', 0) > 0


def gather_tokens(x: Array, indices: Array) -> Array:
    """Rows of each sequence, `[b n d], int [b m] -> [b m d]`."""
    return jnp.take_along_axis(x, indices[..., None], axis=1)


def scatter_tokens(x: Array, indices: Array, values: Array) -> Array:
    """Rows of each sequence replaced, `[b n d], int [b m], [b m d] -> [b n d]`; x of integers becomes float32 first."""
    x = jnp.asarray(x) if jnp.issubdtype(x.dtype, jnp.floating) else to_float32(x)
    # Mapped over the batch and not indexed by it: the compiler then keeps a batch that is split over devices apart.
    return jax.vmap(lambda row, index, new: row.at[index].set(new))(x, indices, values.astype(x.dtype))


def mask_from_indices(indices: Array, patches: int) -> Array:
    """The mask of these patches, int `[b m]` to bool `[b n]`."""
    return jax.vmap(lambda index: jnp.zeros(patches, bool).at[index].set(True))(indices)


def patch_embedding_ties(encoder: str, sequence: str, first: int = 0) -> dict[str, Any]:
    """`torch_ties` of an objective whose torch twin has the layers of the encoder's patch embedding once more.

    Args:
      encoder: the encoder's name here.
      sequence: name of the layers there, `patch_to_emb`.
      first: number of their first.
    """
    leaves = {'patch_norm': ('scale', 'bias'), 'projection': ('kernel', 'bias'), 'norm': ('scale', 'bias')}
    return {
        f'{encoder}/to_patch_embedding/{layer}/{leaf}': partial(_names, f'{sequence}.{first + place}', leaf)
        for place, (layer, kinds) in enumerate(leaves.items())
        for leaf in kinds
    }


def _names(module: str, leaf: str, objective: nn.Module) -> tuple[str, ...]:
    return (f'{module}.{LEAVES.get(leaf, leaf)}',)
