"""What all kinds of files share: the error, dtypes, limits, and names as they are printed."""

import contextlib
import importlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from vit_flax.printing import shown, summed_up

# More than both is taken for a bomb: weights hardly compress, and a GiB fits into any machine.
MAX_INFLATED = 2**30
MAX_RATIO = 100
# numpy has no arrays of more axes.
MAX_RANK = 64
# No module is nested so deeply that its parameters have longer names.
MAX_NAME = 1000

# What numpy lacks: one or two bytes, named by ml_dtypes as PyTorch and JAX name them.
NARROW = {
    name: np.dtype(getattr(ml_dtypes, name)) for name in dir(ml_dtypes) if name.startswith(('bfloat16', 'float8_'))
}
PLAIN = 'bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128'
# The dtypes that NumPy, JAX and the formats have in common, by name.
DTYPES = {name: np.dtype(name) for name in PLAIN.split()} | NARROW


class FileError(ValueError):
    """A file cannot be read or written, or must not be; the message says why."""


@dataclass(frozen=True)
class Spec:
    """One array of a file, unread."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Listing:
    """What a file holds: arrays, and what is in it beside them, described in a few words."""

    specs: Mapping[str, Spec]
    others: Mapping[str, str] = field(default_factory=dict)


def with_unit(size: float) -> str:
    """A number of bytes for people."""
    for unit in ('bytes', 'KiB', 'MiB', 'GiB'):
        if size < 1024:
            break
        size, unit = size / 1024, 'TiB'
    return f'{size:.4g} {unit}'


@contextlib.contextmanager
def told(path: Path, doing: str = 'read') -> Iterator[None]:
    """Whatever goes wrong with a file, as one `FileError`.

    Readers of archives and of pickles, given any bytes at all, raise more than their documentation knows.
    """
    try:
        yield
    except FileError:
        raise
    except MemoryError as error:
        raise FileError(f'{shown(path)} cannot be {doing}: too little memory') from error
    except Exception as error:
        text = shown(' '.join(str(error).split()) or type(error).__name__, 300)
        cause: BaseException | None = error
        while cause:
            if isinstance(cause, OSError) and cause.strerror:
                raise FileError(f'{shown(path)} cannot be {doing}: {cause.strerror}') from error
            # what PyTorch says of a full disk hides what the system said
            cause = cause.__context__ if doing == 'written' else None
        state = 'is damaged' if doing == 'read' else f'is not {doing}'
        raise FileError(f'{shown(path)} {state}: {text}') from error


def check_array(path: Path, name: str, shape: Iterable[Any], dtype: str) -> Spec:
    """What a file says of an array.

    Raises:
      FileError: numpy could not have such an array, however empty, or the name is no name.
    """
    shape = tuple(shape)
    if len(name) > MAX_NAME:
        raise FileError(f'{shown(path)}: refused: a name of {len(name)} characters, {shown(repr(name), 40)}')
    if dtype not in DTYPES:
        raise FileError(f'{shown(path)}: {shown(name)} has dtype {shown(dtype)}, which numpy and JAX have no arrays of')
    sizes = all(type(size) is int and size >= 0 for size in shape)
    if not sizes or len(shape) > MAX_RANK or math.prod(filter(None, shape)) * DTYPES[dtype].itemsize >= 2**63:
        axes = f'{len(shape)} axes' if len(shape) > MAX_RANK else f'shape {summed_up(shape)}'
        raise FileError(f'{shown(path)}: refused: {shown(name)} claims {axes}, which no array can have')
    return Spec(shape, dtype)


def check_inflation(path: Path, inflated: int, size: int | None = None) -> None:
    """Refuses a file that would fill the memory with what it inflates to.

    Args:
      path: the file.
      inflated: bytes of all its contents.
      size: its own bytes, asked of the file system if left out.
    """
    size = path.stat().st_size if size is None else size
    if inflated > MAX_INFLATED and inflated > MAX_RATIO * size:
        raise FileError(
            f'{shown(path)}: refused: its {with_unit(size)} inflate to {with_unit(inflated)}, more than {MAX_RATIO} '
            'times as much'
        )


def need(module: str, extra: str, what: str) -> ModuleType:
    """An optional library, or a message that says what needs it and how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition('.')[0]
        raise FileError(f"{what} needs {name}, which is missing: pip install 'vit-linen[{extra}]'") from error
