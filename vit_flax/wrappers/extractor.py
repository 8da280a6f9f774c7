"""Embeddings from any place inside a model; upstream module `extractor`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jax import Array

from vit_flax.blocks.arguments import check_arguments
from vit_flax.taps import capture

# Of one submodule: what it gave, or the tuple of what it took.
Embeddings = Array | tuple[Array, ...]


@dataclass(frozen=True)
class Extractor:
    """Runs a model and returns what one of its submodules or taps saw.

    Attributes:
      vit: any Flax model.
      layer_name: path of a submodule (`transformer`, `transformer/block_3/attention`) or of a tap
        (`embedding`, `transformer/block_3/block`). In a scanned trunk `transformer/block` gives all
        layers at once, along a leading axis.
      layer_save_input: the submodule's inputs, a tuple, instead of its output.
      return_embeddings_only: leave the model's own output away.
      detach: stop gradients through the embeddings.
    """

    vit: nn.Module
    layer_name: str = 'transformer'
    layer_save_input: bool = False
    return_embeddings_only: bool = False
    detach: bool = True

    def __post_init__(self) -> None:
        check_arguments(self)

    def init(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """The model's own variables: `variables` of the bare model serve as well."""
        return self.vit.init(*args, **kwargs)

    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[Any, Embeddings] | Embeddings:
        """The model's `apply`.

        Returns:
          `(output, embeddings)`, or the embeddings alone.

        Raises:
          ValueError: the model has no such submodule or tap; the nearest is given.
        """
        output, captured = capture(
            self.vit,
            variables,
            *args,
            names=self.layer_name,
            inputs=self.layer_save_input,
            argument='layer_name',
            **kwargs,
        )
        embeddings = captured[self.layer_name]
        embeddings = jax.lax.stop_gradient(embeddings) if self.detach else embeddings
        return embeddings if self.return_embeddings_only else (output, embeddings)
