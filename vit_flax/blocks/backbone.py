"""The base class of every model: what it declares of itself, so that nobody has to guess it from shapes."""

from collections.abc import Sequence
from typing import Any, ClassVar

from vit_flax.blocks.grids import Grid, TokenGrid
from vit_flax.blocks.module import Module


class Backbone(Module, kw_only=True):
    """What wrappers, objectives, weights and trainers may rely on in every model.

    The forward pass is `classify(encode(embed(x)))`, each stage with `train=False` as its second argument, or ends
    before `classify` if there are no classes. Blocks are in the order of depth in which they tap `block`, behind
    `embedding`; what the head reads is tapped as `to_latent`. Learned position tables are declared by the modules that
    own them (`position_tables`).

    Attributes:
      can_embed_patches: whether it offers `embed_tokens`, `patch_positions` and `prefix_tokens`, with which an
        objective masks single patches before they are encoded.
      can_drop_tokens: whether `encode` takes any subset of the tokens.
      pools_without_classes: whether `num_classes=0` returns the pooled features, and not the encoded tokens.
      taps_latent: whether the pooled features are one vector, tapped as `to_latent`.
    """

    can_embed_patches: ClassVar[bool] = False
    can_drop_tokens: ClassVar[bool] = False
    pools_without_classes: ClassVar[bool] = False
    taps_latent: ClassVar[bool] = True

    @classmethod
    def takes(cls, argument: str) -> bool:
        """Whether the constructor has this argument, such as `scan`."""
        return argument in cls.__dataclass_fields__

    @property
    def grid(self) -> Grid:
        """The patches of the input; models whose input is not cut into patches of one size have none."""
        raise AttributeError

    @property
    def head(self) -> tuple[str, ...]:
        """Paths of the modules and parameters whose shapes depend on the number of classes."""
        return ('mlp_head',)

    @property
    def input_kernel(self) -> str:
        """Path in `params` of the kernel `[h w c d]` that reads the image; empty where it has another layout."""
        return ''

    @property
    def layout(self) -> str:
        """The axes of the input."""
        return 'b h w c'

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches, such as a class token."""
        return 0

    @property
    def num_suffix_tokens(self) -> int:
        """Tokens after those of the patches, such as registers."""
        return 0

    def example_input(self) -> Any:
        """Shape and dtype of an input, or a tuple of them, for tracing."""
        return self.grid.example()

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        """The grids that its tokens form, in the order of depth, without repetition.

        Args:
          lengths: of the input's axes between batch and channels.
        """
        shape = tuple(length // patch for length, patch in zip(lengths, self.grid.patch, strict=True))
        return (TokenGrid(shape, self.num_prefix_tokens, self.num_suffix_tokens),)
