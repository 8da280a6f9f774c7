"""Directories of orbax: a tree of arrays, each cut into chunks."""

import contextlib
import functools
import importlib
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_flax.printing import shown
from vit_flax.weights.formats.common import (
    DTYPES,
    FileError,
    Listing,
    Spec,
    check_array,
    check_inflation,
    need,
    told,
)
from vit_flax.weights.formats.names import flatten, nested


def listing(path: Path) -> Listing:
    """Names, shapes and dtypes; no numbers are read."""
    return _with(path, lambda checkpointer: _listing(path, checkpointer)[0])


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays."""
    ocp = need('orbax.checkpoint', 'weights', 'an orbax folder')

    def restore(checkpointer: Any) -> dict[str, np.ndarray]:
        listing, tree = _listing(path, checkpointer)
        # as numpy arrays, on whatever devices they were written
        kinds = importlib.import_module('jax').tree.map(
            lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray if _is_array(leaf) else None), tree
        )
        leaves = _leaves(path, checkpointer.restore(path.absolute(), restore_args=kinds))
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items() if name not in listing.others}
        if {name: Spec(array.shape, array.dtype.name) for name, array in arrays.items()} != listing.specs:
            raise FileError(f'{shown(path)} is damaged: its arrays are not what its metadata say')
        return arrays

    return _with(path, restore)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    ocp = need('orbax.checkpoint', 'weights', 'an orbax folder')
    for name, array in arrays.items():
        if not array.size:
            raise FileError(f'{shown(name)} has no elements, which an orbax folder cannot hold: write .npz')
    with _quiet(), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), nested(arrays))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """orbax logs what it raises, from each of its threads, and warns of what it does not find in older folders."""
    _ignore_late_reports()
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@functools.cache
def _ignore_late_reports() -> None:
    """Where one array cannot be read, what else orbax had begun reports at any time later, of which nobody asks."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: None if 'Event loop is closed' in str(args.exc_value) else hook(args)
    logging.getLogger('asyncio').addFilter(_is_not_of_an_array)
    warnings.filterwarnings('ignore', r"coroutine '\w+Handler\.\w+' was never awaited", RuntimeWarning)


def _is_not_of_an_array(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return 'was never retrieved' not in message or not re.search(r'tensorstore|zarr|orbax', message)


def _with(path: Path, do: Callable[[Any], Any]) -> Any:
    ocp = need('orbax.checkpoint', 'weights', 'an orbax folder')
    with told(path), _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
        return do(checkpointer)


def _listing(path: Path, checkpointer: Any) -> tuple[Listing, Any]:
    """What is in a folder, and the tree that it is in.

    Raises:
      FileError: the folder holds what is no file, no checkpoint, or arrays or chunks far larger than its files.
    """
    size = _size(path)
    metadata = checkpointer.metadata(path.absolute()).item_metadata
    if metadata is None:
        raise FileError(f'{shown(path)} is damaged or no checkpoint of one tree: its _METADATA cannot be read')
    leaves = _leaves(path, metadata.tree)
    arrays = {name: leaf for name, leaf in leaves.items() if _is_array(leaf)}
    specs = {name: check_array(path, name, leaf.shape, np.dtype(leaf.dtype).name) for name, leaf in arrays.items()}
    # a chunk is made whole, however little of it the array needs
    chunks = [math.prod(getattr(leaf.storage, 'chunk_shape', None) or ()) for leaf in arrays.values()]
    inflated = sum(
        max(spec.size, chunk) * DTYPES[spec.dtype].itemsize for spec, chunk in zip(specs.values(), chunks, strict=True)
    )
    check_inflation(path, inflated, size)
    others = {name: type(leaf).__name__.removesuffix('Metadata').lower() for name, leaf in leaves.items()}
    return Listing(specs, {name: kind for name, kind in others.items() if name not in specs}), metadata.tree


def _leaves(path: Path, tree: Any) -> dict[str, Any]:
    """Without those that stand for nothing, as optimizers have them."""
    return {name: leaf for name, leaf in flatten(path, tree).items() if leaf is not None}


def _is_array(leaf: Any) -> bool:
    """Whether a leaf of the metadata is of an array, or of a number, which is stored as one."""
    return getattr(leaf, 'shape', None) is not None


def _size(path: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for folder, _, names in os.walk(path):
        for file in (Path(folder, name) for name in names):
            if not file.is_file():  # a pipe would be waited for, for ever
                raise FileError(f'{shown(path)}: refused: {shown(file)} in it is no file')
            total += file.stat().st_size
    return total
