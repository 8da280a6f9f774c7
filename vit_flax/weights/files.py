"""Files of weights: PyTorch's, safetensors, `.npz`, flax's msgpack, and orbax directories, as flat names to arrays.

What kind a file is follows from its content, never from its name. Nothing in a file can run code, and a file that
would fill the memory with what it inflates to is refused before it is read. orbax is imported when such a folder is
met, torch and safetensors when such a file is written.
"""

import ctypes
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from vit_flax.printing import shown
from vit_flax.weights.formats import msgpack, npz, orbax, pytorch, safetensors, zips
from vit_flax.weights.formats.common import DTYPES, FileError, Spec, check_array, told
from vit_flax.weights.formats.names import below

__all__ = [
    'SUFFIXES',
    'Contents',
    'FileError',
    'Spec',
    'file_kind',
    'kind_to_write',
    'read_arrays',
    'read_contents',
    'write_arrays',
]

FORMATS: Mapping[str, ModuleType] = {
    'torch': pytorch,
    'safetensors': safetensors,
    'npz': npz,
    'msgpack': msgpack,
    'orbax': orbax,
}

# Suffix to write -> kind of file; a name without suffix is an orbax directory.
SUFFIXES = {
    '.pth': 'torch',
    '.pt': 'torch',
    '.bin': 'torch',
    '.safetensors': 'safetensors',
    '.npz': 'npz',
    '.msgpack': 'msgpack',
    '': 'orbax',
}


@dataclass(frozen=True)
class Contents:
    """Metadata of a file.

    Attributes:
      kind: `torch`, `safetensors`, `npz`, `msgpack` or `orbax`.
      specs: names to shapes; nested names are joined with `/`.
      others: what is in it beside arrays: names to a short description.
    """

    kind: str
    specs: Mapping[str, Spec]
    others: Mapping[str, str]


def file_kind(path: str | Path) -> str:
    """`torch`, `safetensors`, `npz`, `msgpack` or `orbax`, from the content.

    Raises:
      FileError: there is no such file, it cannot be read, or it is none of these.
    """
    path = Path(path)
    with told(path):
        if path.is_dir():
            if (path / '_METADATA').exists():
                return 'orbax'
            inside = sorted(str(found.parent) for found in path.glob('*/_METADATA'))
            hint = f'; there is one in {shown(", ".join(inside))}' if inside else ''
            raise FileError(
                f'{shown(path)} is a directory, but no orbax checkpoint of arrays: it has no _METADATA{hint}'
            )
        if not path.is_file():
            raise FileError(
                f'{shown(path)}: there is no such file' + (', but a device or pipe' if path.exists() else '')
            )
        with path.open('rb') as file:
            head = file.read(9)
    if head[:4] == b'PK\x03\x04':
        with zips.opened(path) as (_, members):
            return 'npz' if members and all(name.endswith('.npy') for name in members) else 'torch'
    if safetensors.is_one(path, head):
        return 'safetensors'
    if head[:1] == b'\x80':  # a pickle: PyTorch's format before 1.6
        return 'torch'
    if msgpack.is_one(head):
        return 'msgpack'
    empty = '' if head else ': it is empty'
    raise FileError(f'{shown(path)} is no file of PyTorch, no safetensors file, no .npz and no msgpack{empty}')


def read_contents(path: str | Path, key: str = '') -> Contents:
    """Names, shapes and dtypes, without the numbers.

    Args:
      path: the file, or an orbax directory.
      key: the part of a nested file, levels joined with `/`: `state_dict`.

    Raises:
      FileError: the file is missing, damaged, of no known kind, or refused.
    """
    path, kind = Path(path), file_kind(path)
    listing = FORMATS[kind].listing(path)
    found = below(path, {**listing.specs, **listing.others}, key)
    specs = {name: leaf for name, leaf in found.items() if isinstance(leaf, Spec)}
    return Contents(kind, specs, {name: leaf for name, leaf in found.items() if name not in specs})


def read_arrays(path: str | Path, key: str = '') -> dict[str, np.ndarray]:
    """All arrays of a file, bit for bit, by name; nested names are joined with `/`.

    Of PyTorch's files, tensors that are views of the same numbers are arrays that share memory.

    Args:
      path: the file, or an orbax directory.
      key: the part of a nested file to read, levels joined with `/`: `state_dict`.

    Raises:
      FileError: the file is missing, damaged, of no known kind, or refused, or it has no such part.
    """
    path, kind = Path(path), file_kind(path)
    return below(path, FORMATS[kind].read(path), key)


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], *, force: bool = False) -> None:
    """Writes arrays to the kind of file that the name's suffix says, all of it or nothing.

    Args:
      path: `.pth`, `.pt`, `.bin`, `.safetensors`, `.npz`; `.msgpack` and without suffix an orbax directory, nested at
        each `/`.
      arrays: by name.
      force: replace what is there; at each moment the old or the new is there, whole.

    Raises:
      FileError: another suffix, something is there, the place cannot be written, or the format cannot hold an array's
        name or dtype.
    """
    path = Path(path)
    kind = kind_to_write(path, force=force)
    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    wanted = {name: check_array(path, name, array.shape, array.dtype.name) for name, array in arrays.items()}
    arrays = {name: array.astype(DTYPES[wanted[name].dtype], copy=False) for name, array in arrays.items()}
    with told(path, 'written'):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the last step is a rename and no half a file is ever seen.
        with tempfile.TemporaryDirectory(prefix='.weights.', dir=path.parent) as folder:
            new = Path(folder, 'new')
            FORMATS[kind].write(new, arrays)
            _check_written(new, path, kind, wanted)
            if path.is_dir() or (new.is_dir() and os.path.lexists(path)):  # which no rename replaces
                swap(new, path)
            else:
                os.replace(new, path)


def kind_to_write(path: str | Path, *, force: bool = False) -> str:
    """The kind of file that a name's suffix asks for.

    Raises:
      FileError: another suffix, or something is there that must not or cannot be replaced.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        known = ', '.join(filter(None, SUFFIXES))
        raise FileError(
            f'{shown(path)}: what kind of file is {shown(repr(path.suffix))}? Use {known}, or no suffix for an '
            'orbax folder'
        )
    with told(path, 'written'):
        if path.exists() or path.is_symlink():
            if not force:
                raise FileError(f'{shown(path)} is there already: --force replaces it')
            if path.is_dir() and (SUFFIXES[path.suffix] != 'orbax' or file_kind(path) != 'orbax'):
                raise FileError(f'{shown(path)} is a folder with other things in it: it is not replaced')
            if path.exists() and not path.is_dir() and not path.is_file():
                raise FileError(f'{shown(path)} is a device or pipe: it is not replaced')
    return SUFFIXES[path.suffix]


def _check_written(new: Path, path: Path, kind: str, wanted: Mapping[str, Spec]) -> None:
    """What was written must be what is read: a name may mean something to an archive or a folder."""
    try:
        found = FORMATS[kind].listing(new).specs
    except FileError as error:
        why = str(error).replace(shown(new), 'it')
        raise FileError(f'{shown(path)}: {kind} cannot hold these arrays: {why}') from error
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise FileError(
                f'{shown(path)}: {kind} cannot hold {shown(repr(name))}: {wanted.get(name)} would be read as '
                f'{found.get(name)}'
            )


def swap(new: Path, path: Path) -> None:
    """Puts a folder in the place of what is there, which takes its place; at once where the system can."""
    if sys.platform == 'linux':
        exchange, here = 2, -100  # RENAME_EXCHANGE, AT_FDCWD
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), 'renameat2', None)
        if renameat2 is not None and not renameat2(here, os.fsencode(new), here, os.fsencode(path), exchange):
            return
    # Killed in between, what was there is whole under the other name.
    old = path.with_name(f'{path.name}.old')
    os.rename(path, old)
    os.rename(new, path)
    os.rename(old, new)
