"""One file per architecture: what is compared, at which sizes."""
