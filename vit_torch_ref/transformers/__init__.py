"""Transformers that a model takes as an argument; one file per package they come from."""
