"""Damaged and hostile files of weights: each must be read right, or refused in one line.

    python benchmarks/fuzz_weights.py [FORMAT ...] [--files 1000] [--seed 0] [--seconds 600] [--keep FOLDER]

File number `n` of a format follows from `n` alone, so that `--seed` continues where a run stopped and `--files 1`
makes one file again, which `--keep` leaves for a look. Files are sound ones of random arrays, and such with other zip
layouts, changed bytes, pickles, headers, records and metadata, and some that are hostile by design. A child process
reads them, with a limit of time and memory for each. What it reads is right if every bit is as PyTorch, safetensors,
numpy, flax or orbax read it, or as it was written; to refuse a sound file is wrong. "Only here" counts damaged files
that these refuse for the sake of something else in them. `inspect` must agree; nothing is printed but its lines,
without control characters.
"""

import argparse
import contextlib
import io
import json
import math
import os
import pickletools
import re
import resource
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

if __name__ == '__main__':
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # before JAX starts

import flax.serialization
import ml_dtypes
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy
import torch

from vit_flax.cli.main import main as vit_flax_main
from vit_flax.weights.files import FileError, read_arrays, read_contents
from vit_flax.weights.formats.pytorch import from_tensor, to_tensor

Rng = np.random.Generator
Arrays = dict[str, np.ndarray]
# What was written, None if that was no arrays at all, and whether the file is sound, so that it must be read.
Made = tuple[Arrays | None, bool]

OUTCOMES = ('read right', 'refused', 'only here', 'wrong', 'traceback', 'crash', 'memory', 'timeout')
# All but the first two are told of one by one, and from the fourth on they are faults.
LISTED, BAD = OUTCOMES[2:], OUTCOMES[3:]
# For one file of a few kB: what it may add to the memory, and take.
MEMORY, SECONDS = 2**30 + 2**28, 10.0

FLOAT8 = ('float8_e4m3fn', 'float8_e5m2', 'float8_e4m3fnuz', 'float8_e5m2fnuz', 'float8_e8m0fnu')
DTYPES = [np.dtype(code) for code in '?bBhiqefdF']
DTYPES += [np.dtype(getattr(ml_dtypes, name)) for name in ('bfloat16', *FLOAT8)]
# In names, shapes, offsets and headers.
ODD_NUMBERS = (-1, 0, 1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64, 10**30)


# arrays -------------------------------------------------------------------------------------------------------------


def random_arrays(rng: Rng, least: int = 0) -> Arrays:
    """A few small arrays of any dtype, without elements too."""
    parts = ['layers', '0', 'weight', 'a b', 'é', '权重', 'x\ty', '\x1b[31m', 'params', 'q' * 60]
    arrays = {}
    for index in range(rng.integers(least, 7)):
        name = '.'.join(rng.choice(parts, rng.integers(1, 4))) + f'.{index}'
        shape = tuple(int(n) for n in rng.integers(least, 6, rng.integers(0, 4)))
        dtype = DTYPES[rng.integers(len(DTYPES))]
        data = rng.integers(0, 2 if dtype.kind == 'b' else 256, math.prod(shape) * dtype.itemsize, np.uint8)
        arrays[name] = data.view(dtype).reshape(shape)
    return arrays


def pick(rng: Rng, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def changed_bytes(rng: Rng, data: bytes) -> bytes:
    """A few bytes flipped, cut, repeated, inserted or overwritten by odd numbers."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place, length = int(rng.integers(len(changed) + 1)), int(rng.integers(1, 16))
        match rng.integers(6):
            case 0 if place < len(changed):
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                del changed[place : len(changed) if rng.random() < 0.3 else place + length]
            case 2:
                changed[place:place] = changed[place : place + length]
            case 3:
                changed[place:place] = rng.bytes(length)
            case 4:
                number = int(pick(rng, *ODD_NUMBERS)) % 2**64
                changed[place : place + 8] = struct.pack('<Q', number)[: int(pick(rng, 1, 2, 4, 8))]
            case _:
                changed[place : place + length] = rng.bytes(length)
    return bytes(changed)


# zip archives -------------------------------------------------------------------------------------------------------


def members_of(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            del member.CRC  # PyTorch may write none
        return [(member.filename, archive.read(member)) for member in archive.infolist()]


class Unseekable(io.RawIOBase):
    """Makes zipfile write sizes behind the data."""

    def __init__(self, file: Any):
        self.file = file

    def write(self, data: Any) -> int:
        return self.file.write(data)

    def writable(self) -> bool:
        return True


def rezip(rng: Rng, path: Path, members: list[tuple[str, bytes]]) -> bool:
    """The same members in another layout; whether that is one that must be read."""
    usual = rng.random() < 0.9
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if usual else (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    if rng.random() < 0.2:
        folders = {f'{name.rpartition("/")[0]}/' for name, _ in members if '/' in name}
        members = [*((folder, b'') for folder in sorted(folders - dict(members).keys())), *members]
    if rng.random() < 0.3:
        members = [members[index] for index in rng.permutation(len(members))]
    with path.open('wb') as file:
        target: Any = Unseekable(file) if rng.random() < 0.2 else file
        if not usual:
            file.write(rng.bytes(int(pick(rng, 0, 5))))
        with warnings.catch_warnings(action='ignore'), zipfile.ZipFile(target, 'w', allowZip64=True) as archive:
            archive.comment = rng.bytes(int(pick(rng, 0, 0, 9)))
            for name, data in members:
                info = zipfile.ZipInfo(name)
                info.compress_type = pick(rng, *methods)
                info.extra = struct.pack('<HH', 0x4246, length := int(rng.integers(0, 64))) + bytes(length)
                with archive.open(info, 'w', force_zip64=bool(rng.random() < 0.2)) as member:
                    member.write(data)
    return usual and bool(members)


def changed_members(rng: Rng, members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """One member missing, there twice, cut, longer, of another name, or with another's content."""
    members = [*members]
    index, other = rng.integers(len(members), size=2)
    name, data = members[index]
    match rng.integers(7):
        case 0:
            del members[index]
        case 1:
            members.append((name, members[other][1]))
        case 2:
            members[index] = name, data[: int(rng.integers(len(data) + 1))]
        case 3:
            members[index] = name, data + rng.bytes(int(rng.integers(1, 100)))
        case 4:
            odd = ('../x', '/x', 'x\\..\\y', 'x/', '.npy', 'a\ud800'.encode('utf-8', 'replace').decode(), 'é' * 300)
            members[index] = pick(rng, *odd), data
        case 5:
            members[index] = name, members[other][1]
        case _:
            members[index] = name, changed_bytes(rng, data)
    return members


def changed_zip(rng: Rng, path: Path) -> bool:
    """What both zip formats share: another layout, other members, other bytes; whether it must be read."""
    match rng.integers(4):
        case 0:
            return rezip(rng, path, members_of(path))
        case 1:
            rezip(rng, path, changed_members(rng, members_of(path)))
        case 2:
            rezip(rng, path, members_of(path))
            path.write_bytes(changed_bytes(rng, path.read_bytes()))
        case _:
            path.write_bytes(changed_bytes(rng, path.read_bytes()))
    return False


# PyTorch ------------------------------------------------------------------------------------------------------------


def tensors_of(rng: Rng, arrays: Arrays) -> dict[str, Any]:
    """Tensors as models have them: parameters, tied ones, parts, transposed and expanded ones."""
    tensors: dict[str, Any] = {}
    for name, array in arrays.items():
        tensor = to_tensor(array)
        match rng.integers(8):
            case 0 if tensor.is_floating_point():
                tensor = torch.nn.Parameter(tensor)
            case 1 if tensor.ndim > 1:
                tensor = tensor.transpose(0, 1)
            case 2 if tensor.ndim and len(tensor) > 2:
                tensor = tensor[1::2]
            case 3:
                tensor = tensor.unsqueeze(0).expand(3, *tensor.shape)
            case 4:
                tensors[f'{name}.tied'] = tensor
            case 5:
                tensor.of_mine = 1
        tensors[name] = tensor
    return tensors


def make_torch(rng: Rng, path: Path) -> Made:
    tensors = tensors_of(rng, random_arrays(rng))
    state: Any = OrderedDict(tensors)
    state._metadata = OrderedDict({'': {'version': 1}})
    more = {'epoch': 3, 'loss': float('nan'), 'size': torch.Size([2]), 'set': {1}, 'bytes': b'x', 'none': None, 'c': 1j}
    more |= {'dtype': torch.float32, 'device': torch.device('cpu'), 'groups': [{'lr': 0.1, 'params': [0, 1]}], 'e': {}}
    wrapped, tree = pick(rng, ('', state), ('', tensors), ('model/', {'model': state, **more}))
    # PyTorch reads no float8 that it wrote in the old way
    legacy = rng.random() < 0.3 and not any('float8' in str(tensor.dtype) for tensor in tensors.values())
    torch.serialization.set_crc32_options(bool(rng.random() < 0.9))
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    if legacy:  # storages are named by their addresses
        data = path.read_bytes()
        for index, key in enumerate(dict.fromkeys(re.findall(rb'[0-9]{13,}', data))):
            data = data.replace(key, b'%0*d' % (len(key), index))
        path.write_bytes(data)
    arrays = {wrapped + name: from_tensor(tensor) for name, tensor in tensors.items()}
    match rng.integers(8):
        case 0:
            return arrays, True
        case 1:
            path.write_bytes(changed_bytes(rng, path.read_bytes()))
        case 2 | 3 if not legacy:
            members = members_of(path)
            change = pick(rng, changed_bytes, changed_operations)
            rezip(rng, path, [(n, change(rng, data) if n.endswith('data.pkl') else data) for n, data in members])
        case 4:
            data = hostile_pickle(rng)
            if rng.random() < 0.5:
                rezip(rng, path, [('a/data.pkl', data), ('a/version', b'3\n'), ('a/data/0', bytes(16))])
            else:
                start = b''.join(map(pickle_of, (0x1950A86A20F9469CFC6C, 1001)))
                path.write_bytes(start + b'\x80\x02}.' + data + b'\x80\x02].')
            return None, False
        case _ if legacy:
            start = int(rng.integers(200))
            data = path.read_bytes()
            path.write_bytes(data[:start] + changed_bytes(rng, data[start:]))
        case _:
            return arrays, changed_zip(rng, path)
    return arrays, False


def pickle_of(value: int) -> bytes:
    return b'\x80\x02' + integer(value) + b'.'


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(data)]) + data


def changed_operations(rng: Rng, data: bytes) -> bytes:
    """A pickle with an operation missing, twice, elsewhere, or another one, or another number or string."""
    starts = [place for _, _, place in pickletools.genops(data)]
    operations = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(rng.integers(1, 3)):
        index, other = rng.integers(len(operations), size=2)
        match rng.integers(5):
            case 0:
                operations[index] = b''
            case 1:
                operations[index] *= int(rng.integers(2, 5))
            case 2:
                operations[index], operations[other] = operations[other], operations[index]
            case 3:
                operations[index] = random_operation(rng)
            case _:
                numbers = [place for place, text in enumerate(operations) if text[:1] in b'KMJ\x8a']
                if numbers:
                    value = int(pick(rng, *ODD_NUMBERS))
                    operations[int(rng.choice(numbers))] = integer(value)
    return b''.join(operations)


GLOBALS = (
    'torch._utils\n_rebuild_tensor_v2\n', 'torch._utils\n_rebuild_tensor_v3\n', 'torch._utils\n_rebuild_parameter\n',
    'torch._tensor\n_rebuild_from_type_v2\n', 'torch\nFloatStorage\n', 'torch.storage\nUntypedStorage\n',
    'torch\nint8\n',
    'collections\nOrderedDict\n', 'collections\nCounter\n', 'builtins\nbytearray\n', '__builtin__\nset\n',
    'os\nsystem\n',
    'torch\nSize\n', '_codecs\nencode\n', 'torch._utils\n_rebuild_sparse_tensor\n', 'torch\nTensor\n', 'torch\nload\n',
)  # fmt: skip


def random_operation(rng: Rng) -> bytes:
    """Any operation of any protocol, with something for its argument."""
    code = pickletools.opcodes[rng.integers(len(pickletools.opcodes))].code.encode('latin-1')
    match code:
        case b'c':
            return code + pick(rng, *GLOBALS).encode()
        case b'X':
            text = pick(rng, b'', b'0', b'storage', b'cpu', b'\xed\xa0\x80', b'k' * 2000)
            return code + struct.pack('<I', len(text)) + text
        case b'K' | b'h' | b'q':
            return code + bytes([rng.integers(6)])
        case b'\x8a':
            return integer(int(pick(rng, *ODD_NUMBERS)))
    return code + rng.bytes(int(rng.integers(0, 9)))


def hostile_pickle(rng: Rng) -> bytes:
    """Made to fill the memory, to take for ever, or to run code."""
    depth, width = int(pick(rng, 3, 20, 60, 100, 5000)), int(pick(rng, 2, 10, 100))
    text = b'X' + struct.pack('<I', 1000) + b'k' * 1000
    storage = b'(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0' + b'0X\x03\0\0\0cpu' + integer(4) + b'tQ'
    numbers = [integer(int(pick(rng, *ODD_NUMBERS, 1, 2, 4))) for _ in range(5)]
    tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + numbers[0] + b'(' + b''.join(numbers[1:3]) + b't('
    tensor += b''.join(numbers[3:]) + b't\x89ccollections\nOrderedDict\n)RtR'
    shared_lists = b'](](' + b'K\0' * width + b'eq\0' + (b'](' + b'h\0' * width + b'eq\0') * min(depth, 200) + b'e'
    shared_tuples = b')' + b'q\0h\0\x86' * min(depth, 200)
    bodies = (
        lambda: b'cbuiltins\nbytearray\n' + integer(6 * 10**9) + b'\x85R',
        lambda: b'c__builtin__\nset\n(]' + integer(2**62) + b'a' + b'tR',
        lambda: b'ccollections\nCounter\n(' + shared_tuples + b'tR',
        lambda: shared_lists,
        lambda: shared_tuples,
        lambda: b'}' + shared_tuples + b'K\1s',  # a key whose hash would take for ever
        lambda: b']q\0(' + b'h\0' * width + b'e',  # a list within itself
        lambda: b'}q\0(' + b''.join(b'X\1\0\0\0' + bytes([97 + i % 26]) + b'h\0' for i in range(width)) + b'u',
        lambda: b']' * depth + b'a' * (depth - 1),
        lambda: b')' + b'\x85' * depth,
        lambda: b'}(' + text + b'q\1]q\2h\2K\1ah\1' + b'}(h\1h\2u' * depth,
        lambda: b'}(' + b''.join(integer((2**61 - 1) * i) + b'K\0' for i in range(depth)) + b'u',
        lambda: b'\x8b' + struct.pack('<i', 2**31 - 1) + bytes(100),
        lambda: b']r' + struct.pack('<I', 2**32 - 1),
        lambda: b'X' + struct.pack('<I', 2**32 - 1) + b'abc',
        lambda: b'\x8d' + struct.pack('<Q', 2**40) + b'abc',
        lambda: b'\x96' + struct.pack('<Q', 2**40) + b'abc',
        lambda: b'cos\nsystem\n(X\4\0\0\0truetR',
        lambda: b'c' + pick(rng, *GLOBALS).encode() + b'(' + b''.join(numbers) + b'tR',
        lambda: tensor,
        lambda: tensor.replace(pick(rng, *numbers), shared_tuples),
        lambda: tensor.replace(b'(' + b''.join(numbers[1:3]) + b't', pick(rng, shared_tuples, shared_lists)),
        lambda: b'](' + tensor * 3 + b'e',
        lambda: b''.join(random_operation(rng) for _ in range(rng.integers(1, 60))),
        lambda: b'}(' + b'X\1\0\0\0aK\1' * 2 + b'u',
        lambda: b'I' + b'9' * depth + b'\n',
    )  # fmt: skip
    return b'\x80\x02' + bodies[rng.integers(len(bodies))]() + b'.'


# the other formats --------------------------------------------------------------------------------------------------


def make_npz(rng: Rng, path: Path) -> Made:
    arrays = random_arrays(rng)
    saved = {}
    for name, array in arrays.items():
        if array.dtype.name in FLOAT8:
            saved[name] = array.view([(array.dtype.name, 'u1')])
        else:
            saved[name] = array.view('V2') if array.dtype == ml_dtypes.bfloat16 else array
            if rng.random() < 0.2 and array.dtype.kind in 'iuf' and array.ndim:
                saved[name] = np.asfortranarray(array.astype(array.dtype.newbyteorder('>')))
    with path.open('wb') as file:  # savez would add a suffix
        pick(rng, np.savez, np.savez_compressed)(file, **saved)
    match rng.integers(6):
        case 0:
            return arrays, bool(arrays)
        case 1 if arrays:
            members = members_of(path)
            index = rng.integers(len(members))
            name, data = members[index]
            members[index] = name, changed_header(rng, data)
            rezip(rng, path, members)
        case 2:
            data = bytearray(path.read_bytes())
            for mark, shift in ((b'PK\3\4', 6), (b'PK\1\2', 8)):  # encrypted, or compressed by another method
                place = data.find(mark)
                if place >= 0:
                    data[place + shift + int(pick(rng, 0, 2))] = int(pick(rng, 1, 8, 9, 12, 14, 93, 99))
            path.write_bytes(data)
        case _ if arrays:
            return arrays, changed_zip(rng, path)
    return arrays, False


def changed_header(rng: Rng, data: bytes) -> bytes:
    """A `.npy` that says other things of itself."""
    descr = (
        '<f4',
        '>f8',
        '|V2',
        '|V1',
        '|O',
        '<U9',
        '<M8[s]',
        '|S0',
        '<f16',
        'f',
        '|b1',
        [('a', '<f4')],
        [],
        None,
    )
    shape = ((), (3,), (0,), (-1,), (2**62, 4), (0, 2**62), (1,) * 70, (True,), (2.0,), 3, None, 'x')
    header: Any = {
        'descr': pick(rng, *descr),
        'fortran_order': pick(rng, True, False, 1),
        'shape': pick(rng, *shape),
    }
    if rng.random() < 0.2:
        header['more'] = 1
    odd = ('{' * 3000, '1' * 5000, '[' * 90, "'\\d'", '{}', 'x()', '9' * 12000, '\0', "{'descr': '<f4'")
    text = repr(header) if rng.random() < 0.8 else pick(rng, *odd)
    if rng.random() < 0.2:
        text = text.replace('2', '2L')
    version, size = pick(rng, (b'\1\0', '<H'), (b'\2\0', '<I'), (b'\3\0', '<I'), (b'\4\0', '<I'))
    return b'\x93NUMPY' + version + struct.pack(size, len(text) + 1) + text.encode() + b'\n' + data[128:]


def make_safetensors(rng: Rng, path: Path) -> Made:
    arrays = random_arrays(rng)
    safetensors.numpy.save_file(arrays, path, metadata=pick(rng, None, {'format': 'pt'}))
    data = path.read_bytes()
    (length,) = struct.unpack('<Q', data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    match rng.integers(5):
        case 0:
            return arrays, True
        case 1:
            path.write_bytes(changed_bytes(rng, data))
        case 2:
            changed = changed_bytes(rng, header)
            path.write_bytes(struct.pack('<Q', len(changed)) + changed + body)
        case 3:
            number = int(pick(rng, *ODD_NUMBERS, length - 1, length + 1)) % 2**64
            path.write_bytes(struct.pack('<Q', number) + header + body)
        case _:
            changed = changed_json(rng, json.loads(header))
            path.write_bytes(struct.pack('<Q', len(changed)) + changed + body)
    return arrays, False


def changed_json(rng: Rng, header: dict[str, Any]) -> bytes:
    """A header of safetensors that says other things of an array."""
    names = [name for name in header if name != '__metadata__']
    entry = header[pick(rng, *names)] if names else header.setdefault('a', {})
    shapes = ([1] * 100, [0, 2**62], [2**40, 2**40], [-1], [1.0], [True], 3, None, [10**30], [0] * 65, [[1]], ['1'])
    offsets = ([0, 0], [0, 2**63], [-4, 0], [4, 0], [0], [0, 4, 8], None, [0.0, 4.0], [2**64, 2**64], 'ab')
    match rng.integers(7):
        case 0:
            entry['shape'] = pick(rng, *shapes)
        case 1:
            entry['data_offsets'] = pick(rng, *offsets)
        case 2:
            entry['dtype'] = pick(rng, 'F4', 'F8_E4M3', 'BOOL', 'F32', 'f32', 'X' * 300, 7, None, [1], '\x1b[31m')
        case 3:
            header[pick(rng, 'a\x1b[2J', '', 'n' * 5000, '__metadata__', '../x', '1' * 5000)] = dict(entry)
        case 4:
            header['__metadata__'] = pick(rng, {'a': 'b'}, {'a': 1}, [], 'x', None, {'a': {'b': 'c'}})
        case 5:
            entry.pop(pick(rng, 'shape', 'dtype', 'data_offsets'), None)
        case _:
            text = json.dumps(header)
            odd = (
                '[' * 100_000,
                '9' * 5000,
                '{"a":NaN}',
                text[:-1] + ',' + text[1:],
                text.replace('a', '\\ud800'),
                '{}',
            )
            return str(pick(rng, *odd)).encode()
    return json.dumps(header).encode()


def make_orbax(rng: Rng, path: Path) -> Made:
    """A folder is slow to write: there are twelve, copied; with and without ocdbt, of zarr 2 and 3."""
    which = int(rng.integers(len(ORBAX)))
    base = path.parent / f'orbax{which}'
    names = {f'params/{index}' if index % 2 else f'{index}': value for index, value in enumerate(ORBAX[which])}
    if not base.exists():
        tree: dict[str, Any] = {}
        for name, value in names.items():
            *folder, leaf = name.split('/')
            (tree.setdefault(folder[0], {}) if folder else tree)[leaf] = value
        layout = ocp.PyTreeCheckpointHandler(use_ocdbt=which % 3 > 0, use_zarr3=which % 2 > 0)
        with ocp.Checkpointer(layout) as checkpointer:
            checkpointer.save(base.absolute(), tree)
    shutil.copytree(base, path)
    files = sorted(file for file in path.rglob('*') if file.is_file())
    file = pick(rng, *files)
    match rng.integers(7):
        case 0:
            return names, True
        case 1:
            file.unlink()
        case 2:
            file.unlink()
            pick(rng, os.mkfifo, os.mkdir, Path.touch, lambda file: os.symlink('/dev/zero', file))(file)
        case 3:
            file.write_bytes(pick(rng, *files).read_bytes())
        case 4:
            metadata = pick(rng, *(file for file in files if file.name in ('_METADATA', '.zarray', 'zarr.json')))
            metadata.write_text(changed_json_text(rng, metadata.read_text()))
        case _:
            file.write_bytes(changed_bytes(rng, file.read_bytes()))
    return names, False


ORBAX = [list(random_arrays(np.random.default_rng(n), 1).values()) for n in range(12)]


def changed_json_text(rng: Rng, text: str) -> str:
    old, new = pick(
        rng, ('true', 'false'), ('2', '3'), ('2', '99999999999999999999'), ('params', 'x'), ('{', '[' * 5000),
        ('"', ''),
        ('np.ndarray', 'jax.Array'), ('np.ndarray', 'string'), ('false', 'true'), ('tree_metadata', 'tree'), ('}', ''),
        ('[', '[2147483648, '), ('[', '[0, '), ('1', '1099511627776'), ('3', '-3'), ('<f4', '<f8'), ('zstd', 'blosc'),
        ('key_metadata', 'value_metadata'), (': ', ': null, "x": '), ('params', 'params\\u001b'),
    )  # fmt: skip
    return text.replace(old, new, int(pick(rng, 1, -1)))


# msgpack ------------------------------------------------------------------------------------------------------------


def make_msgpack(rng: Rng, path: Path) -> Made:
    arrays = random_arrays(rng, least=1)
    tree: dict[str, Any] = (
        {'params': arrays, 'step': 3, 'scalar': np.float32(2)} if rng.random() < 0.5 else dict(arrays)
    )
    written = dict(flat(tree))
    limit = flax.serialization.MAX_CHUNK_SIZE
    # chunks of a few numbers instead of a GiB
    flax.serialization.MAX_CHUNK_SIZE = int(pick(rng, 16, limit))
    try:
        data = flax.serialization.msgpack_serialize(tree)
    finally:
        flax.serialization.MAX_CHUNK_SIZE = limit
    match rng.integers(4):
        case 0:
            path.write_bytes(data)
            return written, True
        case 1:
            # an array that claims another shape, in the place of the first
            shape = [int(pick(rng, *ODD_NUMBERS)) % 2**63 for _ in range(rng.integers(0, 4))]
            record = msgpack.packb((shape, 'float32', rng.bytes(int(rng.integers(20)))))
            path.write_bytes(msgpack.packb({'a': msgpack.ExtType(1, record), 'b': [1, {'c': None}]}))
            return None, False
        case 2:
            # containers in containers, and maps without end
            path.write_bytes(b'\x81\xa1a' * int(pick(rng, 3, 70, 2000)) + bytes([int(pick(rng, 0x80, 0xDF, 0xC0))]))
            return None, False
        case _:
            path.write_bytes(changed_bytes(rng, data))
    return written, False


MAKE: Mapping[str, Callable[[Rng, Path], Made]] = {
    'torch': make_torch,
    'safetensors': make_safetensors,
    'npz': make_npz,
    'msgpack': make_msgpack,
    'orbax': make_orbax,
}


# what is right ------------------------------------------------------------------------------------------------------


def flat(tree: Any, prefix: str = '') -> Iterator[tuple[str, np.ndarray]]:
    """Arrays in what a reference reads, named as `read_arrays` names them."""
    if isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from flat(value, f'{prefix}/{key}' if prefix else str(key))
    elif isinstance(tree, torch.Tensor):
        yield prefix or 'value', from_tensor(tree)
    elif isinstance(tree, np.ndarray):
        yield prefix or 'value', tree


def reference(kind: str, path: Path) -> Arrays:
    """As the format's own library reads it, whatever it raises."""
    if kind == 'torch':
        return dict(flat(torch.load(path, map_location='cpu', weights_only=True)))
    if kind == 'npz':
        with np.load(path, allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}  # bytes where it is no .npy
            return {name: native(array) for name, array in members.items() if isinstance(array, np.ndarray)}
    if kind == 'orbax':
        with ocp.PyTreeCheckpointer() as checkpointer:
            return dict(flat(checkpointer.restore(path.absolute())))
    if kind == 'msgpack':
        return dict(flat(flax.serialization.msgpack_restore(path.read_bytes())))
    arrays = {}
    for name, entry in safetensors.deserialize(path.read_bytes()):
        arrays[name] = np.frombuffer(bytes(entry['data']), np.uint8).reshape(-1), tuple(entry['shape'])
    return arrays  # type: ignore[return-value]


def native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder('='), copy=False) if array.dtype.kind in 'iufc' else array


def bits(array: Any) -> tuple[tuple[int, ...], bytes]:
    """Shape and bytes; the library of safetensors gives both by themselves."""
    array, shape = array if isinstance(array, tuple) else (array, array.shape)
    return shape, np.ascontiguousarray(array).tobytes()


def equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bits(one[name]) == bits(other[name]) for name in one)


def attempt(kind: str, seed: int, folder: Path) -> tuple[str, str]:
    """Makes a file, reads it and judges: one of `OUTCOMES`, and what there is to say."""
    rng = np.random.default_rng([seed, *kind.encode()])
    path = folder / f'{kind}-{seed}'
    written, sound = MAKE[kind](rng, path)
    try:
        with tempfile.TemporaryFile() as file, standard_error(file):
            arrays, problem = read(path)
            file.seek(0)
            printed = file.read().decode(errors='replace')
        if problem or printed:
            return 'traceback', problem or printed
        if isinstance(arrays, str):
            return ('wrong', f'sound, but {arrays}') if sound else ('refused', arrays)
        if not arrays if written is None else equal(arrays, written):
            return 'read right', ''
        try:
            with warnings.catch_warnings(action='ignore'), contextlib.redirect_stderr(io.StringIO()):
                theirs = reference(kind, path)
        except Exception as error:
            return 'only here', f'{type(error).__name__}: {error}'
        return ('read right', '') if equal(arrays, theirs) else ('wrong', 'not as its own library reads it')
    except Exception:
        return 'traceback', traceback.format_exc()
    finally:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def read(path: Path) -> tuple[Arrays | str, str]:
    """The arrays, or the line that refuses them; and what is wrong with that, if anything."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = vit_flax_main(['inspect', str(path), '--no-models'])
    lines = [*out.getvalue().splitlines(), *err.getvalue().splitlines()]
    if code not in (0, 2) or err.getvalue().count('\n') != code // 2 or not all(map(str.isprintable, lines)):
        return '', f'inspect: {code} {lines}'
    try:
        specs = read_contents(path).specs
        arrays = read_arrays(path)
    except FileError as error:
        return str(error), '' if str(error).isprintable() else f'not printable: {str(error)!r}'
    found = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    if code or found != {name: (spec.shape, spec.dtype) for name, spec in specs.items()}:
        return '', f'what is read is not what is listed: {lines}'
    return arrays, ''


@contextlib.contextmanager
def standard_error(file: IO[bytes]) -> Iterator[None]:
    """Sends to a file what libraries print past Python."""
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


# processes ----------------------------------------------------------------------------------------------------------


def work(kind: str) -> None:
    """The child: numbers of files on standard input, an outcome for each on standard output."""
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    soft = 16 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        answers.write('ready\n')
        for line in sys.stdin:
            Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
            before = peak()
            outcome, text = attempt(kind, int(line), Path(folder))
            grown = peak() - before
            if outcome not in BAD and grown > MEMORY:
                outcome, text = 'memory', f'{grown / 2**30:.1f} GiB; {text}'
            answers.write(json.dumps([outcome, text]) + '\n')


def peak() -> int:
    """Bytes of memory at most since the last reset."""
    status = Path('/proc/self/status').read_text()
    return 1024 * int(status.partition('VmHWM:')[2].split()[0])


class Child:
    """Reads files in another process, which ends when it is too slow."""

    def __init__(self, kind: str):
        command = [sys.executable, __file__, '--work', kind]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )
        self._line(120)

    def _line(self, seconds: float) -> str | None:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        return self.process.stdout.readline()

    def outcome(self, seed: int) -> tuple[str, str]:
        assert self.process.stdin is not None
        self.process.stdin.write(f'{seed}\n')
        line = self._line(SECONDS)
        if line:
            outcome, text = json.loads(line)
            return outcome, text
        self.end()
        return ('timeout', f'more than {SECONDS:.0f} s') if line is None else ('crash', 'the process ended')

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def run(kind: str, first: int, files: int, seconds: float) -> tuple[Counter[str], list[str], int]:
    """Counts of outcomes, a line for each bad one, and the number of the next file."""
    child, counts, bad, seed = Child(kind), Counter[str](), [], first
    end = time.monotonic() + seconds
    while seed < first + files and time.monotonic() < end:
        outcome, text = child.outcome(seed)
        counts[outcome] += 1
        if outcome in LISTED:
            bad.append(f'{kind} --seed {seed}: {outcome}: {text.strip()}')
        if child.process.poll() is not None:
            child = Child(kind)
        seed += 1
        sys.stderr.write(f'\r{kind} {seed - first}')
    child.end()
    sys.stderr.write('\r')
    return counts, bad, seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('formats', nargs='*', metavar='FORMAT', help=f'{", ".join(MAKE)}; all of them if left out')
    parser.add_argument('--files', type=int, default=1000, help='of each format (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='number of the first file')
    parser.add_argument('--seconds', type=float, default=600, help='for each format (default: %(default)s)')
    parser.add_argument('--keep', type=Path, metavar='FOLDER', help='write the files there and read none')
    parser.add_argument('--work', choices=MAKE, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work)
        return 0
    kinds = args.formats or [*MAKE]
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        for kind in kinds:
            for seed in range(args.seed, args.seed + args.files):
                MAKE[kind](np.random.default_rng([seed, *kind.encode()]), args.keep / f'{kind}-{seed}')
        return 0
    lines = [f'| format | files | {" | ".join(OUTCOMES)} |', f'|---|{"--:|" * (len(OUTCOMES) + 1)}']
    listed: list[str] = []
    faults = 0
    for kind in kinds:
        counts, bad, following = run(kind, args.seed, args.files, args.seconds)
        lines.append(f'| {kind} | {counts.total():,} | {" | ".join(f"{counts[outcome]:,}" for outcome in OUTCOMES)} |')
        listed += bad
        faults += sum(counts[outcome] for outcome in BAD)
        sys.stderr.write(f'{kind}: --seed {following} goes on\n')
    print('\n'.join([*listed, *lines]))
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
