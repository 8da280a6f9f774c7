"""`python -m train RECIPE [--key value ...]`."""

import sys

from train.cli import main

# Worker processes import this file again under another name: they must not start a run.
if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
