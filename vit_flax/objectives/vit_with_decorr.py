"""Decorrelation Speeds Up Vision Transformers, arXiv:2510.14657: classification with its loss.

vit-pytorch's `vit_with_decorr` returns the decorrelation loss beside the logits and leaves the rest to the
caller: here both losses are added up.
"""

from typing import Any

from jax import Array

from vit_flax.objectives.classify import cross_entropy
from vit_flax.objectives.objective import Objective


class DecorrelatedClassification(Objective, kw_only=True):
    """Cross-entropy and decorrelation (arXiv:2510.14657): images `[b h w c]` and labels to a loss.

    Attributes:
      encoder: `vit_flax.models.vit_with_decorr.ViT`.
      weight: weight of the decorrelation loss.
    """

    encoder: Any
    weight: float

    def __call__(
        self, images: Array, labels: Array, train: bool = False, sampled_tokens: Array | None = None
    ) -> tuple[Array, Array]:
        """The loss, and the decorrelation loss alone, both scalars.

        Args:
          images: `[b h w c]`.
          labels: int `[b]`, or probabilities of the classes `[b num_classes]`.
          train: dropout.
          sampled_tokens: the tokens of the decorrelation loss, see `models.vit_with_decorr`; drawn from the rng
            `tokens` if the encoder samples them and they are left out.
        """
        options = dict(return_decorr_aux_loss=True, sampled_tokens=sampled_tokens)
        logits, decorrelation = self.encoder(images, train=train, **options)
        return cross_entropy(logits, labels) + self.weight * decorrelation, decorrelation
