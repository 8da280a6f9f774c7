"""Proof that the Flax models and their PyTorch twins compute the same numbers."""
