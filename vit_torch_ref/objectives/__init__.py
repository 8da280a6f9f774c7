"""One file per training objective; draws are arguments."""
