"""What is minimised: one pure object per way of training."""
