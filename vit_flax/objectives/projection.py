"""What objectives of several views put around an encoder: one of its layers, and a projector behind it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.torch_like import Dense, gelu, uniform_by_fan_in
from vit_flax.taps import capturing

# Upstream counts the children of a network from its end: the output, and what its head takes.
OUTPUT, LATENT = -1, -2
LATENT_TAP = 'to_latent'


def layer_output(net: nn.Module, layer: str | int, images: Array, train: bool = False) -> Array:
    """What a layer of a bound network gives for these images.

    Args:
      net: the network.
      layer: path of a submodule or a tap within it, as for `vit_flax.wrappers.extractor.Extractor`; -1 is the
        network's output, -2 the tap `to_latent`, what the head of ViT and its like takes.
      images: what the network takes.
      train: dropout and statistics.

    Raises:
      ValueError: there is no such layer, or it stands inside a scanned or rematerialised trunk.
    """
    if layer == OUTPUT:
        return net(images, train=train)
    if isinstance(layer, int) and layer != LATENT:
        raise ValueError(f'hidden_layer={layer} must be -1 (the output), -2 (what the head takes) or a name')
    wanted = LATENT_TAP if layer == LATENT else str(layer)
    with capturing(net, wanted, argument='hidden_layer') as captured:
        net(images, train=train)
    return captured[wanted]


class Projector(Module):
    """Linear and GELU several times, then L2 normalisation, then the prototypes, `[... d] -> [... k]`.

    Attributes:
      features: number of prototypes, k.
      layers: one more than there are hidden layers.
      hidden: their width.
      bottleneck: width of a linear layer before the normalisation; the prototypes are then unit vectors without bias,
        as in DINO's paper. None is none.
      axis: of the normalisation.
    """

    features: int
    layers: int
    hidden: int
    bottleneck: int | None = None
    axis: int = -1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.layers < 2:
            raise ValueError(f'projection_layers={self.layers} must be at least 2')
        # all numbered, since torch counts the layers of a sequence
        for i in range(self.layers - 1):
            x = gelu(Dense(self.hidden, **self.precision, name=f'hidden_{i}')(x))
        if self.bottleneck is None:
            prototypes = Dense(self.features, **self.precision, name=f'prototypes_{self.layers - 1}')
            return prototypes(scaled(x, self.axis))
        x = Dense(self.bottleneck, **self.precision, name=f'bottleneck_{self.layers - 1}')(x)
        return UnitDense(self.features, **self.precision, name=f'directions_{self.layers - 1}')(scaled(x, self.axis))

    torch_names = {
        'hidden_{i}': 'net.{2*i}',
        'prototypes_{i}': 'net.{2*i+1}',
        'bottleneck_{i}': 'net.{2*i}',
        'directions_{i}': 'net.{2*i+2}',
    }


class UnitDense(Module):
    """Linear without bias onto unit vectors, `[... d] -> [... features]`."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        kernel = self.param('kernel', uniform_by_fan_in(width), (width, self.features), self.param_dtype)
        x, kernel = self.promote(x, kernel)
        return x @ scaled(kernel, 0)


def scaled(x: Array, axis: int) -> Array:
    """L2 normalisation along an axis; vectors shorter than 1e-6 are divided by that."""
    wide = to_float32(x)
    # bounded before the root, whose slope at zero is infinite
    return (wide / jnp.sqrt(jnp.maximum((wide * wide).sum(axis=axis, keepdims=True), 1e-12))).astype(x.dtype)


class ProjectedNet(Module):
    """A network, one of its layers and a projector: images `[b h w c]` to (projection `[b k]`, embedding `[b d]`).

    Attributes:
      net: the network.
      layer: see `layer_output`.
      features, layers, hidden, bottleneck: of the projector.
      average_places: average over the positions of a feature map or over tokens, so that the size of the images may
        vary; else they are concatenated.
    """

    net: Any
    layer: int | str
    features: int
    layers: int
    hidden: int
    bottleneck: int | None = None
    average_places: bool = False

    def setup(self) -> None:
        sizes = self.features, self.layers, self.hidden, self.bottleneck
        self.projector = Projector(*sizes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to the output of the layer, averaged or flattened, `[b h w c] -> [b d]`."""
        output = layer_output(self.net, self.layer, images, train)
        if self.average_places:
            return output.reshape(len(output), -1, output.shape[-1]).mean(axis=1)
        return output.reshape(len(output), -1)

    def __call__(self, images: Array, train: bool = False) -> Any:
        embedding = self.embed(images, train)
        return self.projector(embedding), embedding


def of_views(module: nn.Module, views: Array, train: bool, keeps_statistics: bool) -> Any:
    """Applies a network to several views of a batch, `[v b h w c] -> [v b ...]`.

    All at once, unless it updates statistics of the batch: then view by view, as upstream.
    """
    if keeps_statistics:
        one_by_one = nn.scan(
            lambda network, carry, view: (carry, network(view, train=train)),
            variable_broadcast=('params', 'constants'),
            variable_carry='batch_stats',
            split_rngs={'params': False, 'dropout': True, 'drop_path': True, 'mask': True, 'tokens': True},
        )
        return one_by_one(module, None, views)[1]
    # The views of an image follow each other, so that a batch that is split over devices stays where it is.
    merged = jnp.swapaxes(views, 0, 1).reshape(-1, *views.shape[2:])
    batch_and_views = views.shape[1], views.shape[0]
    outputs = module(merged, train=train)
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(*batch_and_views, *x.shape[1:]), 0, 1), outputs)
