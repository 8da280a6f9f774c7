"""What a training step would need and take on devices that are not here."""
