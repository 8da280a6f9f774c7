"""PyTorch's files: a zip archive with a pickle and a member for each storage, and the one file of before 1.6.

Read without PyTorch, whose mapped reader ignores compression and believes what the pickle says of sizes.
"""

import importlib
import io
import json
import mmap
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from vit_flax.printing import shown
from vit_flax.weights.formats import zips
from vit_flax.weights.formats.common import (
    DTYPES,
    MAX_RATIO,
    NARROW,
    FileError,
    Listing,
    check_inflation,
    need,
    told,
)
from vit_flax.weights.formats.names import flatten
from vit_flax.weights.formats.pickles import MAX_BYTES, Global, Opaque, Reader, Storage, Tensor

# The first two pickles of a file of before 1.6.
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# The third says what machine wrote it: storages are little-endian whatever it says.

Fetch = Callable[[Storage], np.ndarray]


def listing(path: Path) -> Listing:
    """Names, shapes and dtypes; the numbers of a zip archive are not read, but it is checked that they are there."""
    leaves = _load(path, read_numbers=False)
    tensors = {name: leaf.spec for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    return Listing(tensors, {name: _describe(leaf) for name, leaf in leaves.items() if not isinstance(leaf, Tensor)})


def read(path: Path) -> dict[str, np.ndarray]:
    """All tensors; those that share a storage share memory."""
    return {name: leaf for name, leaf in _load(path, read_numbers=True).items() if isinstance(leaf, np.ndarray)}


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    torch = need('torch', 'torch', 'a file of PyTorch')
    with path.open('wb') as file:  # which says what is wrong with a disk
        torch.save({name: to_tensor(array) for name, array in arrays.items()}, file)


def to_tensor(array: np.ndarray) -> Any:
    """A bit-identical PyTorch tensor, with memory of its own.

    Raises:
      TypeError: PyTorch has no such dtype.
    """
    torch = importlib.import_module('torch')
    array = np.array(array)
    if array.dtype.name not in NARROW:
        return torch.from_numpy(array)
    dtype = getattr(torch, array.dtype.name, None)
    if dtype is None:
        raise TypeError(f'PyTorch has no {array.dtype}')
    return torch.from_numpy(array.view(f'u{array.dtype.itemsize}')).view(dtype)


def from_tensor(tensor: Any) -> np.ndarray:
    """The same bits of a PyTorch tensor, in its memory where it is on the host.

    Raises:
      TypeError: numpy has no such arrays.
    """
    tensor = tensor.detach().cpu()
    dtype = NARROW.get(str(tensor.dtype).removeprefix('torch.'))
    if dtype is None:
        return tensor.numpy()
    bits = getattr(importlib.import_module('torch'), f'uint{8 * dtype.itemsize}')
    return tensor.contiguous().view(bits).numpy().view(dtype)


def _load(path: Path, *, read_numbers: bool) -> dict[str, Any]:
    """Leaves by name; tensors become arrays if their numbers are read."""
    with told(path):
        with path.open('rb') as file:
            is_zip = file.read(2) == b'PK'
        return _load_zip(path, read_numbers) if is_zip else _load_legacy(path, read_numbers)


def _load_zip(path: Path, read_numbers: bool) -> dict[str, Any]:
    with zips.opened(path) as (archive, members):
        found = [name for name in members if name.endswith('/data.pkl') and name.count('/') == 1]
        if len(found) != 1:
            raise FileError(f'{shown(path)} is a zip archive, but none of PyTorch: it holds {len(found)} data.pkl')
        folder = found[0].removesuffix('data.pkl')
        if f'{folder}constants.pkl' in members:
            raise FileError(f'{shown(path)}: refused: it is a TorchScript program. Save model.state_dict() instead')
        if not any(member.CRC for member in members.values()):
            # PyTorch's set_crc32_options(False) writes no checksums
            for member in members.values():
                del member.CRC

        def content(name: str, limit: int) -> bytes:
            member = members[folder + name]
            if member.file_size > limit:
                raise FileError(
                    f'{shown(path)}: refused: its {name} has {member.file_size} bytes, too many for weights'
                )
            with archive.open(member) as file:
                return zips.read(file, member.file_size).tobytes() + file.read(1)

        swapped = f'{folder}byteorder' in members and content('byteorder', 100) != b'little'
        if swapped and content('byteorder', 100) != b'big':
            raise FileError(f'{shown(path)} is damaged: its byteorder is neither little nor big')
        reader = Reader(path)
        limit = min(MAX_BYTES, 2**20 + MAX_RATIO * path.stat().st_size)
        leaves = flatten(path, reader.load(io.BytesIO(content('data.pkl', limit))), 16 * reader.operations)
        for storage in reader.storages.values():
            name = f'{folder}data/{storage.key}'
            there = members[name].file_size if name in members else 'no'
            if there != storage.nbytes:
                raise FileError(
                    f'{shown(path)}: refused: storage {shown(storage.key)} should have {storage.nbytes} bytes, its '
                    f'member has {there}'
                )

        tensors = [leaf for leaf in leaves.values() if isinstance(leaf, Tensor)]
        if swapped and any(leaf.storage.dtype.itemsize < DTYPES[leaf.spec.dtype].itemsize for leaf in tensors):
            raise FileError(f'{shown(path)}: refused: big-endian, without saying what is to be swapped')

        def fetch(storage: Storage) -> np.ndarray:
            with archive.open(members[f'{folder}data/{storage.key}']) as file:
                data = zips.read(file, storage.nbytes)
                file.read(1)  # at the end of a member its checksum is compared
            return data.view(storage.dtype).byteswap().view(np.uint8) if swapped else data

        return _with_arrays(path, leaves, fetch if read_numbers else None)


def _load_legacy(path: Path, read_numbers: bool) -> dict[str, Any]:
    # mapped, so that a length that is claimed makes no room before it is there
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        pickles, reader = cast(IO[bytes], mapped), Reader(path)
        if reader.load(pickles) != MAGIC or reader.load(pickles) != PROTOCOL:
            raise FileError(f'{shown(path)} is a pickle, but none of PyTorch')
        reader.load(pickles)
        tree = reader.load(pickles)
        leaves = flatten(path, tree, 16 * reader.operations)
        keys = reader.load(pickles)
        storages, places = reader.storages, dict[str, int]()
        named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not named or sorted(keys) != sorted(storages):
            raise FileError(f'{shown(path)} is damaged: it does not hold the storages that its tensors need')
        for key in keys:
            (size,) = struct.unpack('<q', mapped.read(8))
            places[key] = mapped.tell()
            if size != storages[key].size or places[key] + storages[key].nbytes > len(mapped):
                raise FileError(
                    f'{shown(path)}: refused: storage {shown(key)} should have {storages[key].size} elements, it '
                    f'claims {size}, and {len(mapped) - places[key]} bytes follow'
                )
            mapped.seek(storages[key].nbytes, io.SEEK_CUR)

        def fetch(storage: Storage) -> np.ndarray:
            begin = places[storage.key]
            return np.frombuffer(bytearray(mapped[begin : begin + storage.nbytes]), np.uint8)

        return _with_arrays(path, leaves, fetch if read_numbers else None)


def _with_arrays(path: Path, leaves: Mapping[str, Any], fetch: Fetch | None) -> dict[str, Any]:
    """The leaves, tensors as arrays if there is something to fetch their storages with."""
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    if fetch is None:
        return dict(leaves)
    # a tensor may show one number many times
    check_inflation(path, sum(tensor.spec.nbytes for tensor in tensors.values()))
    storages = {tensor.storage for tensor in tensors.values()}
    data = {storage.key: fetch(storage) for storage in storages}
    return {name: leaf.array(data[leaf.storage.key]) if name in tensors else leaf for name, leaf in leaves.items()}


def _describe(value: Any) -> str:
    """Something that is no tensor, in at most sixty characters."""
    if isinstance(value, Opaque):
        return value.kind
    if isinstance(value, Global):
        return value.name
    if isinstance(value, Storage):
        return 'storage'
    return shown(json.dumps(value[:100] if isinstance(value, str) else value), 60)
