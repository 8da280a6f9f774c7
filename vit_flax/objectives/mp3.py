"""Position Prediction as an Effective Pretraining Strategy, arXiv:2207.07611.

vit-pytorch's `mp3`: the encoder gets patches without position embeddings, which attend to a few of them alone,
and predicts the position of each patch in the image.
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import numpy as np
from flax import linen as nn
from jax import Array

from vit_flax.blocks.averages import mean_of_each
from vit_flax.blocks.precision import to_float32
from vit_flax.models.mp3 import ViT as ViT
from vit_flax.models.vit import NormedHead
from vit_flax.objectives.encoder import EncoderObjective, gather_tokens
from vit_flax.objectives.masking import masked_count, random_split


def draw_mask(rng: Array, batch: int, num_patches: int, masking_ratio: float) -> dict[str, Any]:
    """Indices of the patches of each image that are attended to: `visible` int `[b n-m]`."""
    return {'visible': random_split(rng, batch, num_patches, masking_ratio)[1]}


class MP3(EncoderObjective, kw_only=True):
    """Position prediction (arXiv:2207.07611): images `[b h w c]` to the cross-entropy of the positions.

    Attributes:
      vit: the model to train, `vit_flax.models.mp3.ViT` or another whose `encode` takes a `context`, the tokens to
        be attended to. Its variables are under `encoder`.
      masking_ratio: fraction of the patches that is not attended to.

    Raises:
      ValueError: an encoder that does not offer its patches or a context, a ratio that masks none or all of them.
    """

    vit: Any
    masking_ratio: float

    encoder_argument: ClassVar[str] = 'vit'
    PAPER: ClassVar[Mapping[str, Any]] = {'masking_ratio': 0.75}

    @classmethod
    def paper(cls, vit: nn.Module, **changes: Any) -> Self:
        """With the ratio of vit-pytorch's example, since upstream has no default."""
        return cls(vit=vit, **{**cls.PAPER, **changes})

    def setup(self) -> None:
        super().setup()
        if 'context' not in inspect.signature(type(self.vit).encode).parameters:
            raise ValueError(
                f'vit={type(self.vit).__name__} cannot attend to other tokens than its own: take models.mp3.ViT'
            )
        masked_count(self.masking_ratio, self.encoder.grid.num_patches)
        self.mlp_head = NormedHead(self.encoder.grid.num_patches, **self.precision)

    def draw(self, rng: Array, images: Array) -> dict[str, Any]:
        """`visible` for these images."""
        return draw_mask(rng, len(images), math.prod(self.grid_of(images)), self.masking_ratio)

    def predict(self, images: Array, visible: Array | None = None, train: bool = False) -> Array:
        """Logits of the position of each patch, `[b h w c] -> [b n n]`; arguments as for the loss."""
        if visible is None:
            visible = self.draw(self.make_rng('mask'), images)['visible']
        tokens = self.encoder.embed_tokens(self.encoder.grid.patchify(images))
        return self.mlp_head(self.encoder.encode(tokens, train=train, context=gather_tokens(tokens, visible)))

    def __call__(self, images: Array, visible: Array | None = None, train: bool = False) -> Array:
        """Cross-entropy of the positions of all patches, a scalar.

        Args:
          images: `[b h w c]`.
          visible: int `[b n-m]`, the patches that are attended to; drawn from the rng `mask` if left out.
          train: dropout.
        """
        return self.losses(images, visible, train).mean()

    def losses(self, images: Array, visible: Array | None = None, train: bool = False) -> Array:
        """The cross-entropy of each image, `[b]`; arguments as for the call."""
        self.initialise_encoder(images)
        log_probabilities = jax.nn.log_softmax(to_float32(self.predict(images, visible, train)))
        positions = np.arange(log_probabilities.shape[1])
        return mean_of_each(-log_probabilities[:, positions, positions])

    torch_names = {'encoder': 'vit'}


__all__ = ['MP3', 'ViT', 'draw_mask']
