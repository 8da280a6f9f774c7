"""`python -m vit_flax`: models, their arguments, and weights between frameworks."""

import os
import sys

# Weights are moved and compared on the CPU, where there is float64. Must be set before JAX starts.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from vit_flax.cli.main import main

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
