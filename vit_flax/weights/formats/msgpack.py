"""flax's msgpack: nested maps of arrays, as `flax.serialization` writes them and `flax_model.msgpack` holds them.

Read by hooks of our own, which make nothing that a file only claims: flax's make what they are told, and drop the first
of two arrays of one name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from vit_flax.printing import shown
from vit_flax.weights.formats.common import DTYPES, FileError, Listing, check_array, told
from vit_flax.weights.formats.names import MAX_LEAVES, Pairs, flatten, nested

# Kinds of extension: flax's.
NDARRAY, COMPLEX, SCALAR = 1, 2, 3
# Arrays of more than a GiB are cut into chunks of one axis.
CHUNKED = '__msgpack_chunked_array__'


@dataclass(frozen=True)
class Other:
    """What is no array, described."""

    text: str


def is_one(head: bytes) -> bool:
    """Whether the first bytes are those of a map with a string as its first key; an empty map is none of these."""
    if not head:
        return False
    begin = 1 if 0x81 <= head[0] <= 0x8F else {0xDE: 3, 0xDF: 5}.get(head[0], len(head))
    key = head[begin : begin + 1]
    return bool(key) and (0xA0 <= key[0] <= 0xBF or key[0] in (0xD9, 0xDA, 0xDB))


def listing(path: Path) -> Listing:
    """Names, shapes and dtypes."""
    leaves = _leaves(path)
    arrays = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray)}
    specs = {name: check_array(path, name, array.shape, array.dtype.name) for name, array in arrays.items()}
    return Listing(specs, {name: _describe(leaf) for name, leaf in leaves.items() if name not in specs})


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays."""
    return {name: leaf.copy() for name, leaf in _leaves(path).items() if isinstance(leaf, np.ndarray)}


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from flax.serialization import msgpack_serialize

    path.write_bytes(msgpack_serialize(nested(arrays)))


def _leaves(path: Path) -> dict[str, Any]:
    """What a file holds, by name; its arrays show the bytes that were read."""
    left = MAX_LEAVES

    def pairs(items: list[tuple[Any, Any]]) -> Any:
        nonlocal left
        left -= 1 + len(items)
        if left < 0:
            raise FileError(f'{shown(path)}: refused: it holds more than {MAX_LEAVES} things')
        return _joined(path, items) if any(key == CHUNKED for key, _ in items) else Pairs(items)

    def sequence(items: list[Any]) -> list[Any]:
        nonlocal left
        left -= 1 + len(items)
        if left < 0:
            raise FileError(f'{shown(path)}: refused: it holds more than {MAX_LEAVES} things')
        return items

    with told(path):
        tree = msgpack.unpackb(
            path.read_bytes(),
            ext_hook=lambda code, data: _extension(path, code, data),
            object_pairs_hook=pairs,
            list_hook=sequence,
            raw=False,
            strict_map_key=False,
            max_array_len=MAX_LEAVES,
            max_map_len=MAX_LEAVES,
        )
        if not isinstance(tree, Pairs):
            raise FileError(f'{shown(path)} is no file of weights: it holds no map')
        return flatten(path, tree)


def _extension(path: Path, code: int, data: bytes) -> Any:
    if code == NDARRAY:
        return _array(path, data)
    return Other({COMPLEX: 'complex number', SCALAR: 'number'}.get(code, f'extension {code}'))


def _array(path: Path, data: bytes) -> np.ndarray:
    shape, dtype, numbers = msgpack.unpackb(data, raw=True)
    dtype = dtype.decode() if isinstance(dtype, bytes) else dtype
    if not isinstance(shape, list) or not isinstance(dtype, str) or not isinstance(numbers, bytes):
        raise FileError(f'{shown(path)} is damaged: an array without shape, dtype or numbers')
    spec = check_array(path, 'an array', shape, dtype)
    if spec.nbytes != len(numbers):
        raise FileError(f'{shown(path)}: refused: an array claims shape {spec.shape}, but has {len(numbers)} bytes')
    return np.frombuffer(numbers, DTYPES[dtype]).reshape(spec.shape)


def _joined(path: Path, items: list[tuple[Any, Any]]) -> np.ndarray:
    """An array of chunks: maps with the keys 0, 1, 2 ... stand for its shape and its chunks."""
    found = dict(items)
    shape, chunks = ([value for _, value in found.get(key) or ()] for key in ('shape', 'chunks'))
    if not chunks or not all(isinstance(one, np.ndarray) and one.dtype == chunks[0].dtype for one in chunks):
        raise FileError(f'{shown(path)} is damaged: chunks that are no arrays of one dtype')
    whole = np.concatenate([one.reshape(-1) for one in chunks])
    spec = check_array(path, 'an array of chunks', shape, whole.dtype.name)
    if spec.size != whole.size:
        raise FileError(f'{shown(path)}: refused: chunks of {whole.size} numbers claim shape {spec.shape}')
    return whole.reshape(spec.shape)


def _describe(value: Any) -> str:
    return value.text if isinstance(value, Other) else shown(repr(value), 60)
