"""Weights from PyTorch and back: `from_torch` and `to_torch`, strict on both sides."""

from vit_flax.weights.convert import from_torch, to_torch

__all__ = ['from_torch', 'to_torch']
