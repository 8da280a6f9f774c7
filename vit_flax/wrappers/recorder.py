"""Attention maps of every attention in a model; upstream module `recorder`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import Array

from vit_flax.blocks.arguments import check_arguments
from vit_flax.taps import apply_with_taps


@dataclass(frozen=True)
class Recorder:
    """Runs a model and returns its attention maps with its output.

    Attributes:
      vit: any model whose attentions are tapped, as all of this package's are.
    """

    vit: nn.Module

    def __post_init__(self) -> None:
        check_arguments(self)

    def init(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """The model's own variables: `variables` of the bare model serve as well."""
        return self.vit.init(*args, **kwargs)

    def apply(
        self, variables: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, Array | dict[str, Array] | None]:
        """The model's `apply`, and the maps in the order in which they were computed.

        Returns:
          output: what the model's `apply` returns, without the taps.
          attentions: `[b layers e n m]` if all maps have the same shape, as in upstream's; else a
            dict of the module's path to its map `[b e n m]`; None if the model has no attention. Where an
            attention looks into windows, b runs over images and, inside an image, over windows.
            Gradients do not flow through them.
        """
        output, taps = apply_with_taps(self.vit, variables, *args, **kwargs)
        maps = attention_maps(taps)
        if not maps:
            return output, None
        if len({attention.shape for attention in maps.values()}) == 1:
            return output, jnp.stack([*maps.values()], axis=1)
        return output, maps


def attention_maps(intermediates: Mapping[str, Any]) -> dict[str, Array]:
    """Taps named `attention`, `[b e n m]` each, by the path of the module they stand in.

    A scanned trunk taps one array for all its layers; they are taken apart, named `block_0`,
    `block_1`, ... and put in order as without scan.
    """
    maps: list[tuple[tuple[int, int], str, Array]] = []
    first_of_trunk: dict[str, int] = {}
    for index, (path, values) in enumerate(flatten_dict(intermediates).items()):
        if path[-1] != 'attention' or not isinstance(values, tuple):
            continue
        name = '/'.join(path[:-1])
        for call, attention in enumerate(map(jax.lax.stop_gradient, values)):
            suffix = f' (call {call})' if len(values) > 1 else ''
            if attention.ndim == 5:
                start = first_of_trunk.setdefault(name.partition('/block/')[0], index)
                for layer, of_layer in enumerate(attention):
                    maps.append(((start, layer), name.replace('/block/', f'/block_{layer}/') + suffix, of_layer))
            else:
                maps.append(((index, 0), name + suffix, attention))
    return {name: attention for _, name, attention in sorted(maps, key=lambda entry: entry[0])}
