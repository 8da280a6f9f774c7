"""Weights from PyTorch and back: `from_torch` and `to_torch`, strict on both sides; layers stacked or one by one."""

from vit_flax.weights.convert import from_torch, to_torch
from vit_flax.weights.layers import stack_layers, unstack_layers

__all__ = ['from_torch', 'stack_layers', 'to_torch', 'unstack_layers']
