"""Data sets and the stream of batches."""
