"""The data sets: one file each, with one class whose fields are its options."""

import sys

from train import catalogue
from train.errors import UserError
from train.sources.source import Source

# What the files share.
SHARED = ('source', 'arrays', 'idx', 'cifar', 'pictures', 'folders', 'clips')


def names() -> list[str]:
    return catalogue.names(sys.modules[__name__], SHARED)


def find(name: str) -> type[Source]:
    """The class of a data set, or a `UserError` with the nearest name."""
    if name == 'arrays':
        raise UserError(
            'the data of this run were arrays in memory: continue it from Python, '
            'or save the arrays with np.savez and take --data.name npz'
        )
    return catalogue.class_of(catalogue.module(sys.modules[__name__], name, names(), 'no data set is called'), Source)
