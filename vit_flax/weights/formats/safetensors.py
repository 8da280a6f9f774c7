"""safetensors, whose format is https://github.com/huggingface/safetensors#format.

Read by code of our own: the library hands no float8 to numpy, and takes the last of two arrays of one name.
"""

import importlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_flax.printing import shown
from vit_flax.weights.formats.common import DTYPES, FileError, Listing, Spec, check_array, need, told

# The format's own limit is 100 MB, which would be a million arrays.
MAX_HEADER = 2**25

CODES = {
    f'{letter}{bits}': f'{kind}{bits}' for letter, kind in (('I', 'int'), ('U', 'uint')) for bits in (8, 16, 32, 64)
}
CODES |= {f'F{bits}': f'float{bits}' for bits in (16, 32, 64)} | {
    'BOOL': 'bool',
    'BF16': 'bfloat16',
    'C64': 'complex64',
}
CODES |= {f'F8_{name.upper()}': f'float8_{name}' for name in ('e5m2', 'e4m3fnuz', 'e5m2fnuz')}
CODES |= {'F8_E4M3': 'float8_e4m3fn', 'F8_E8M0': 'float8_e8m0fnu'}


@dataclass(frozen=True)
class _Entry:
    spec: Spec
    begin: int
    end: int


def is_one(path: Path, head: bytes) -> bool:
    """Whether the first nine bytes are those of a safetensors file."""
    return len(head) == 9 and head[8:] == b'{' and struct.unpack('<Q', head[:8])[0] <= path.stat().st_size


def listing(path: Path) -> Listing:
    """Names, shapes and dtypes; no numbers are read."""
    return Listing({name: entry.spec for name, entry in _header(path)[0].items()})


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays."""
    entries, start = _header(path)
    arrays = {}
    with told(path), path.open('rb') as file:
        for name, entry in entries.items():
            file.seek(start + entry.begin)
            # not np.fromfile, which knows no float8
            data = np.empty(entry.spec.nbytes, np.uint8)
            if file.readinto(data.data) != data.size:
                raise FileError(f'{shown(path)} is damaged: {shown(name)} is cut off')
            arrays[name] = data.view(DTYPES[entry.spec.dtype]).reshape(entry.spec.shape)
    return arrays


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    need('safetensors', 'weights', 'a safetensors file')
    importlib.import_module('safetensors.numpy').save_file(dict(arrays), path)


def _header(path: Path) -> tuple[dict[str, _Entry], int]:
    """The entries, and where in the file the numbers begin."""
    with told(path):
        size = path.stat().st_size
        with path.open('rb') as file:
            length = struct.unpack('<Q', file.read(8))[0]
            if length > min(MAX_HEADER, size - 8):
                raise FileError(f'{shown(path)} is damaged: a header of {length} bytes')
            header = json.loads(
                file.read(length).decode(),
                object_pairs_hook=lambda pairs: _unique(path, pairs),
                parse_constant=_no_json,
            )
        meta = header.pop('__metadata__', None) or {}
        if not isinstance(meta, dict) or not all(isinstance(text, str) for text in meta.values()):
            raise FileError(f'{shown(path)} is damaged: its __metadata__ is no table of strings')
        entries = {name: _entry(path, name, fields) for name, fields in sorted(header.items())}
        end = 0
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != end or entry.end - entry.begin != entry.spec.nbytes:
                raise FileError(
                    f'{shown(path)} is damaged: {shown(name)} of shape {entry.spec.shape} is at bytes {entry.begin} to '
                    f'{entry.end}, the array before ends at {end}'
                )
            end = entry.end
        if 8 + length + end != size:
            raise FileError(f'{shown(path)} is damaged: its arrays end at byte {8 + length + end} of {size}')
        return entries, 8 + length


def _entry(path: Path, name: str, fields: Any) -> _Entry:
    name.encode()  # JSON can name what UTF-8 cannot
    dtype, shape, (begin, end) = fields['dtype'], fields['shape'], fields['data_offsets']
    if not isinstance(shape, list) or not all(type(offset) is int for offset in (begin, end)):
        raise FileError(f'{shown(path)} is damaged: {shown(name)} has no shape or no place')
    return _Entry(check_array(path, name, shape, CODES.get(dtype, dtype)), begin, end)


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise FileError(f'{shown(path)}: refused: the name {shown(repr(name))} is there twice')
        found[name] = value
    return found


def _no_json(text: str) -> None:
    raise ValueError(f'{text} is no JSON')
