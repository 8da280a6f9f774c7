"""Models that read or wrap other models."""
