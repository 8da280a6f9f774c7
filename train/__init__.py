"""One trainer for every model: `python -m train RECIPE`."""
