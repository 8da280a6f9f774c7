"""Transformers that a model takes as an argument, tokens to tokens: in place of the ViT's own trunk."""
