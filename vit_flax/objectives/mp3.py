"""Position Prediction as an Effective Pretraining Strategy, arXiv:2207.07611.

vit-pytorch's `mp3`: the encoder gets patches without positions, reads a few of them alone, and tells of each
patch where in the image it stands.
"""

import inspect
import math
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array

from vit_flax.blocks.precision import to_float32
from vit_flax.models.mp3 import ViT as ViT
from vit_flax.models.vit import NormedHead
from vit_flax.objectives.encoder import EncoderObjective, take
from vit_flax.objectives.masking import masked_count, random_split


def draw_mask(rng: Array, batch: int, num_patches: int, masking_ratio: float) -> dict[str, Any]:
    """Which patches of each image are read: `visible` int `[b n-m]`."""
    return {'visible': random_split(rng, batch, num_patches, masking_ratio)[1]}


class MP3(EncoderObjective, kw_only=True):
    """Position prediction (arXiv:2207.07611): images `[b h w c]` to the cross entropy of the places.

    Attributes:
      vit: the model to train, `vit_flax.models.mp3.ViT` or another whose `encode` takes a `context`, the tokens to
        be read. Its variables stand under `encoder`.
      masking_ratio: share of the patches that is not read.

    Raises:
      ValueError: an encoder that does not offer its patches or a context, a share that hides none or all of them.
    """

    vit: Any
    masking_ratio: float

    encoder_argument: ClassVar[str] = 'vit'

    def setup(self) -> None:
        super().setup()
        if 'context' not in inspect.signature(type(self.vit).encode).parameters:
            raise ValueError(
                f'vit={type(self.vit).__name__} cannot read other tokens than its own: take models.mp3.ViT'
            )
        masked_count(self.masking_ratio, self.encoder.grid.num_patches)
        self.mlp_head = NormedHead(self.encoder.grid.num_patches, **self.precision)

    def draw(self, rng: Array, images: Array) -> dict[str, Any]:
        """`visible` for these images."""
        return draw_mask(rng, len(images), math.prod(self.grid_of(images)), self.masking_ratio)

    def predict(self, images: Array, visible: Array | None = None, train: bool = False) -> Array:
        """Logits of the place of each patch, `[b h w c] -> [b n n]`; arguments as for the loss."""
        if visible is None:
            visible = self.draw(self.make_rng('mask'), images)['visible']
        tokens = self.encoder.embed_tokens(self.encoder.grid.patchify(images))
        return self.mlp_head(self.encoder.encode(tokens, train=train, context=take(tokens, visible)))

    def __call__(self, images: Array, visible: Array | None = None, train: bool = False) -> Array:
        """Cross entropy of the places of all patches, a scalar.

        Args:
          images: `[b h w c]`.
          visible: int `[b n-m]`, the patches that are read; drawn from the rng `mask` if left out.
          train: dropout.
        """
        self.initialise_encoder(images)
        shares = jax.nn.log_softmax(to_float32(self.predict(images, visible, train)))
        places = np.arange(shares.shape[1])
        return -shares[:, places, places].mean()

    torch_names = {'encoder': 'vit'}


__all__ = ['MP3', 'ViT', 'draw_mask']
