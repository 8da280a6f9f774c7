"""Embeddings from any place inside a model; upstream module `extractor`."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import Array

from vit_flax.blocks.arguments import check_arguments
from vit_flax.wrappers.recorder import apply_with_taps

# What a watched submodule took or gave, beside the model's own taps.
INPUT, OUTPUT = 'input of the module', 'output of the module'

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
        places: list[str] = []

        def watch(next_fun, module_args, module_kwargs, context):
            output = next_fun(*module_args, **module_kwargs)
            path = '/'.join(context.module.path)
            if context.method_name == '__call__' and path:
                places.append(path)
                if path == self.layer_name:
                    arrays = tuple(value for value in module_args if isinstance(value, jax.Array | np.ndarray))
                    context.module.sow('intermediates', INPUT, arrays)
                    context.module.sow('intermediates', OUTPUT, output)
            return output

        with nn.intercept_methods(watch):
            output, taps = apply_with_taps(self.vit, variables, *args, **kwargs)
        found = {'/'.join(path): values[-1] for path, values in flatten_dict(taps).items() if isinstance(values, tuple)}
        key = f'{self.layer_name}/{INPUT if self.layer_save_input else OUTPUT}'
        if key not in found and not self.layer_save_input:
            key = self.layer_name
        if key not in found:
            known = sorted({*places, *found})
            near = difflib.get_close_matches(self.layer_name, known, n=1)
            hint = f'did you mean {near[0]!r}?' if near else f'there are {", ".join(known)}'
            raise ValueError(f'layer_name={self.layer_name!r} is no submodule or tap of the model: {hint}')
        embeddings = jax.lax.stop_gradient(found[key]) if self.detach else found[key]
        return embeddings if self.return_embeddings_only else (output, embeddings)
