"""Looped Diffusion Transformer, arXiv:2609.40305: classification after every loop, and the loss of the exit gate.

vit-pytorch's `looped_vit` holds the loss of the loops and the targets of the gate as functions and leaves the rest
to the caller: here both are added up.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from vit_flax.blocks.precision import to_float32
from vit_flax.models.looped_vit import Weighting, adaptive_exit_targets, deep_supervision_loss
from vit_flax.objectives.objective import Objective


class LoopedClassification(Objective, kw_only=True):
    """Deep supervision (arXiv:2609.40305): images `[b h w c]` and labels `[b]` to a loss.

    The exit gate, where the encoder has one, is trained by its squared error.

    Attributes:
      encoder: `vit_flax.models.looped_vit.LoopedViT`.
      weighting: weights of the loops, see `models.looped_vit.deep_supervision_weights`; None takes the encoder's.
      label_smoothing: probability that is spread over all classes.
      gate_weight: weight of the gate's loss.
    """

    encoder: Any
    weighting: Weighting | None = None
    label_smoothing: float = 0.0
    gate_weight: float = 1.0

    def __call__(self, images: Array, labels: Array, train: bool = False) -> tuple[Array, Array]:
        """The loss, and the gate's alone (0 without one), both scalars.

        Args:
          images: whatever grid the encoder takes.
          labels: int `[b]`.
          train: dropout.
        """
        weighting = self.encoder.deep_supervision_weighting if self.weighting is None else self.weighting
        gated = self.encoder.adaptive_loop
        result = self.encoder(images, train=train, return_all_logits=True, return_exit_benefits=gated)
        logits = to_float32(result[0] if gated else result)
        loss = deep_supervision_loss(logits, labels, weighting, self.label_smoothing)
        if not gated:
            return loss, jnp.zeros_like(loss)
        targets = adaptive_exit_targets(logits, labels, self.label_smoothing)
        gate_loss = jnp.square(to_float32(result[1]) - targets).mean()
        return loss + self.gate_weight * gate_loss, gate_loss
