"""Masked autoencoder (arXiv:2111.06377): most of an image is hidden, and a small decoder predicts its pixels."""

from dataclasses import dataclass
from typing import Any, Literal

from flax import linen as nn
from jax import Array

from train.errors import UserError
from train.objectives.objective import Batch, Scaled, Variables
from train.objectives.pretraining import MaskedImages
from vit_flax.objectives.mae import MAE


@dataclass(frozen=True)
class Mae(MaskedImages):
    """Hidden patches from the visible ones."""

    masking_ratio: float = 0.75
    """Share of the patches that is hidden."""
    masking: Literal['random', 'tube'] = 'random'
    """How they are drawn: each by itself, or, for videos, the same places at every time (arXiv:2203.12602)."""
    decoder_dim: int = 512
    """Width of the decoder, which is thrown away after training."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of each of its blocks."""
    decoder_dim_head: int = 32
    """Width of one of these heads."""
    norm_pixels: bool = True
    """Predict each patch less its mean and over its deviation."""

    def check(self) -> None:
        super().check()
        for name in ('decoder_dim', 'decoder_depth', 'decoder_heads', 'decoder_dim_head'):
            if getattr(self, name) < 1:
                raise UserError(f'objective.{name}={getattr(self, name)} must be at least 1')

    def init(self, model: nn.Module, rng: Array, batch: Batch) -> Variables:
        if self.masking == 'tube' and batch['image'].ndim < 5:
            raise UserError("objective.masking='tube' hides the same places at all times of a video: take 'random'")
        return super().init(model, rng, batch)

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        return MAE.paper(
            model,
            masking_ratio=self.masking_ratio,
            masking=self.masking,
            decoder_dim=self.decoder_dim,
            decoder_depth=self.decoder_depth,
            decoder_heads=self.decoder_heads,
            decoder_dim_head=self.decoder_dim_head,
            norm_pixels=self.norm_pixels,
            dtype=getattr(model, 'dtype', None),
        )
