import contextlib
import importlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch

from vit_flax.weights import files
from vit_flax.weights.files import FileError, file_kind, read_arrays, read_contents, write_arrays
from vit_flax.weights.formats import common
from vit_flax.weights.formats.pytorch import from_tensor

# Those that all formats can hold.
FLOAT8 = [name for name in common.NARROW if hasattr(torch, name) and name != 'bfloat16']
KINDS = ('weights.pth', 'weights.safetensors', 'weights.npz', 'weights.msgpack', 'weights')


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        'params/block_0/kernel': rng.normal(size=(3, 4)).astype(np.float32),
        'params/block_0/half': rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
        'params/scalar': np.array(2.5, np.float64),
        'params/empty': np.zeros((0, 7), np.float32),
        'params/transposed': rng.normal(size=(3, 5)).astype(np.float16).T,
        **{f'params/{name}': np.frombuffer(rng.bytes(6), name).reshape(2, 3) for name in FLOAT8},
        'batch_stats/count': np.array(2**40, np.int64),
        'batch_stats/file': np.array([True, False]),
    }


@pytest.mark.parametrize('name', KINDS)
def test_every_bit_survives(tmp_path, arrays, name):
    path = tmp_path / name
    if name == 'weights':
        del arrays['params/empty']  # orbax writes no arrays without numbers
    write_arrays(path, arrays)
    back = read_arrays(path)
    assert back.keys() == arrays.keys()
    for key, array in arrays.items():
        assert (back[key].dtype, back[key].shape) == (array.dtype, array.shape), key
        assert back[key].tobytes() == np.ascontiguousarray(array).tobytes(), key
    contents = read_contents(path)
    assert {key: (spec.shape, spec.dtype) for key, spec in contents.specs.items()} == {
        key: (array.shape, array.dtype.name) for key, array in arrays.items()
    }
    assert contents.kind == file_kind(path) == files.SUFFIXES[path.suffix]
    assert [entry.name for entry in tmp_path.iterdir()] == [name], 'something temporary was left'


def test_the_kind_follows_from_the_content(tmp_path, arrays):
    write_arrays(tmp_path / 'a.npz', arrays)
    (tmp_path / 'a.npz').rename(tmp_path / 'a.pth')
    assert file_kind(tmp_path / 'a.pth') == 'npz'
    (tmp_path / 'b.pth').write_bytes(b'not a file of weights')
    with pytest.raises(FileError, match=r'no file of PyTorch, no safetensors file, no \.npz and no msgpack'):
        file_kind(tmp_path / 'b.pth')
    with pytest.raises(FileError, match='no orbax checkpoint'):
        file_kind(tmp_path)
    write_arrays(tmp_path / '100' / 'state', arrays | {'params/empty': np.zeros(1)})
    with pytest.raises(FileError, match=r'there is one in .*state'):
        file_kind(tmp_path / '100')
    with pytest.raises(FileError, match='no such file'):
        file_kind(tmp_path / 'c.pth')
    with tarfile.open(tmp_path / 'd.pth', 'w') as archive:  # PyTorch's format of before 0.1.10
        archive.addfile(tarfile.TarInfo('sys_info'))
    with pytest.raises(FileError, match='no file of PyTorch'):
        file_kind(tmp_path / 'd.pth')


def test_older_pytorch_files(tmp_path):
    path = tmp_path / 'old.pth'
    torch.save({'weight': torch.arange(3)}, path, _use_new_zipfile_serialization=False)
    assert read_arrays(path)['weight'].tolist() == [0, 1, 2]


def test_nested_files(tmp_path):
    path = tmp_path / 'run.pth'
    torch.save({'state_dict': {'a.weight': torch.ones(2)}, 'ema': {'a.weight': torch.zeros(2)}, 'epoch': 3}, path)
    assert set(read_arrays(path)) == {'state_dict/a.weight', 'ema/a.weight'}
    assert read_arrays(path, 'ema')['a.weight'].tolist() == [0, 0]
    assert read_contents(path).others == {'epoch': '3'}
    with pytest.raises(FileError, match="nothing under 'model': there are ema, state_dict"):
        read_arrays(path, 'model')


def test_nothing_is_replaced_unless_asked(tmp_path, arrays):
    for name in KINDS:
        if name == 'weights':
            del arrays['params/empty']
        write_arrays(tmp_path / name, {'params/a': np.zeros(1)})
        with pytest.raises(FileError, match='--force'):
            write_arrays(tmp_path / name, arrays)
        write_arrays(tmp_path / name, arrays, force=True)
        assert read_arrays(tmp_path / name).keys() == arrays.keys()
    (tmp_path / 'link').symlink_to('weights')
    (tmp_path / 'file').touch()
    for name in ('link', 'file'):
        write_arrays(tmp_path / name, {'a': np.ones(1)}, force=True)
        assert (
            read_arrays(tmp_path / name).keys() == {'a'} and read_arrays(tmp_path / 'weights').keys() == arrays.keys()
        )
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'thesis.tex').write_text('years of work')
    with pytest.raises(FileError, match='no orbax checkpoint'):
        write_arrays(tmp_path / 'folder', arrays, force=True)
    with pytest.raises(FileError, match=r"'\.h5'"):
        write_arrays(tmp_path / 'a.h5', arrays)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / 'a.npz'
    write_arrays(path, {'a': np.zeros(1)})
    with pytest.raises(FileError, match=r"a\.npz: npz cannot hold .* '\.\./a\.npy' climbs out"):
        write_arrays(path, {'b': np.ones(1), '../a': np.zeros(2)}, force=True)
    assert read_arrays(path).keys() == {'a'}
    assert len([*tmp_path.iterdir()]) == 1


class Malicious:
    """Would make a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('new', [True, False])
def test_a_pickle_that_would_run_code(tmp_path, new):
    torch.save({'weight': Malicious(tmp_path / 'ran')}, tmp_path / 'a.pth', _use_new_zipfile_serialization=new)
    for read in (read_arrays, read_contents):
        with pytest.raises(FileError, match=r'refused: its pickle asks for \S*system, which could run code'):
            read(tmp_path / 'a.pth')
    assert not (tmp_path / 'ran').exists()


def test_a_whole_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'a.pth')
    with pytest.raises(FileError, match=r'asks for torch\.nn\.modules\.linear\.Linear.*state_dict'):
        read_arrays(tmp_path / 'a.pth')


def test_a_pickle_in_an_npz(tmp_path):
    np.savez(tmp_path / 'a.npz', a=np.array([Malicious(tmp_path / 'ran')], object))
    for read in (read_arrays, read_contents):
        with pytest.raises(FileError, match='refused: a is a pickle'):
            read(tmp_path / 'a.npz')
    (tmp_path / 'b.pth').write_bytes(pickle.dumps(Malicious(tmp_path / 'ran')))
    with pytest.raises(FileError, match='refused'):
        read_arrays(tmp_path / 'b.pth')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('member', ['../a.npy', '/etc/a.npy', 'a/../../b.npy', 'C:\\a.npy', '..\\a.npy'])
def test_paths_that_climb_out(tmp_path, member):
    for name, last in (('a.npz', '.npy'), ('a.pth', 'data.pkl')):
        with zipfile.ZipFile(tmp_path / name, 'w') as archive:
            archive.writestr(member.replace('.npy', last) if last != '.npy' else member, b'')
        with pytest.raises(FileError, match=r'refused: its member .* climbs out'):
            read_arrays(tmp_path / name)


def test_zip_bombs(tmp_path, monkeypatch):
    """A real one has terabytes; here the bound is lower."""
    monkeypatch.setattr(common, 'MAX_INFLATED', 2**20)
    np.savez_compressed(tmp_path / 'a.npz', a=np.zeros(2**20, np.uint8), b=np.zeros(100))
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/data.pkl', b'')
        archive.writestr('a/data/0', bytes(2**21))
    for name in ('a.npz', 'a.pth'):
        for read in (read_arrays, read_contents):
            with pytest.raises(FileError, match=r'refused: its .* inflate to .*MiB'):
                read(tmp_path / name)
    np.savez(tmp_path / 'b.npz', a=np.zeros(2**20, np.uint8))  # large, but not inflated
    assert read_arrays(tmp_path / 'b.npz')['a'].size == 2**20


def test_arrays_larger_than_their_file(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        archive.writestr('a.npy', b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header)
    with pytest.raises(FileError, match='refused: a claims shape'):
        read_arrays(tmp_path / 'a.npz')
    torch.save({'a': torch.zeros(1).expand(10**6, 10**6)}, tmp_path / 'a.pth')
    assert read_contents(tmp_path / 'a.pth').specs['a'].shape == (10**6, 10**6)
    with pytest.raises(FileError, match=r'refused: its .* inflate to'):
        read_arrays(tmp_path / 'a.pth')


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors', 'weights.npz', 'weights.msgpack'])
@pytest.mark.parametrize('kept', [0.95, 0.5, 0.05])
def test_damaged_files(tmp_path, arrays, name, kept):
    path = tmp_path / name
    write_arrays(path, arrays)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(FileError, match=r'damaged|no file of'):
        read_arrays(path)


def test_missing_libraries_are_named(tmp_path):
    """Only what writes a file of PyTorch needs PyTorch."""
    torch.save({'a': torch.ones(1)}, tmp_path / 'a.pth')
    code = (
        'import sys; sys.modules["torch"] = None; from vit_flax.weights.files import read_arrays, write_arrays\n'
        f'write_arrays({str(tmp_path / "b.pth")!r}, read_arrays({str(tmp_path / "a.pth")!r}))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert "a file of PyTorch needs torch, which is missing: pip install 'vit-linen[torch]'" in done.stderr
    assert not (tmp_path / 'b.pth').exists()


# PyTorch's archives -------------------------------------------------------------------------------------------------


def zipped(path, members, method=zipfile.ZIP_STORED, extra=0):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.extra = b'FB' + struct.pack('<H', extra) + bytes(extra)
            archive.writestr(info, data)


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def views():
    base = torch.arange(24.0).reshape(4, 6)
    state = {'whole': base, 'part': base[1:3, ::2], 'turned': base.T, 'wide': base[:1].expand(3, 6), 'none': base[:0]}
    state |= {name: torch.arange(6, dtype=torch.uint8).view(getattr(torch, name)) for name in FLOAT8}
    return state | {
        'half': torch.ones(3, dtype=torch.bfloat16),
        'many': torch.tensor([[1 + 2j]]),
        'no': torch.tensor(True),
    }


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize('extra', [0, 1, 57])
@pytest.mark.parametrize('order', ['little', 'big'])
def test_zipped_again_every_number_is_right(tmp_path, method, extra, order):
    """Whatever the layout: torch.load with mmap takes compressed bytes for numbers."""
    torch.save(views(), tmp_path / 'a.pth')
    members = dict(sorted(members_of(tmp_path / 'a.pth').items())) | {'a/byteorder': order.encode()}
    zipped(tmp_path / 'b.pth', members, method, extra)
    found, right = read_arrays(tmp_path / 'b.pth'), torch.load(tmp_path / 'b.pth')
    # of storages without a dtype PyTorch swaps nothing, as they have one byte
    assert found.keys() == right.keys()
    for name, tensor in right.items():
        assert found[name].tobytes() == from_tensor(tensor).tobytes(), name
        assert found[name].dtype.name == str(tensor.dtype).removeprefix('torch.') and found[name].flags.writeable


def test_every_flipped_byte_is_seen(tmp_path):
    """A zip archive knows a checksum of each member."""
    torch.save({'a': torch.arange(3.0)}, tmp_path / 'a.pth')
    np.savez(tmp_path / 'a.npz', a=np.arange(3.0))
    for name, step in (('a.pth', 4), ('a.npz', 1)):
        content = (tmp_path / name).read_bytes()
        for place in range(0, len(content), step):
            changed = bytearray(content)
            changed[place] ^= 16
            (tmp_path / 'b').write_bytes(changed)
            with contextlib.suppress(FileError):
                assert [array.tolist() for array in read_arrays(tmp_path / 'b').values()] == [[0, 1, 2]], place


def test_what_big_endian_machines_do_not_say(tmp_path):
    """Of dtypes newer than its storages, PyTorch swaps nothing."""
    torch.save({'a': torch.ones(2, dtype=torch.uint16)}, tmp_path / 'a.pth')
    zipped(tmp_path / 'b.pth', members_of(tmp_path / 'a.pth') | {'a/byteorder': b'big'})
    with pytest.raises(FileError, match='refused: big-endian'):
        read_arrays(tmp_path / 'b.pth')


def test_archives_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    torch.save(views(), tmp_path / 'a.pth')
    torch.serialization.set_crc32_options(True)
    found = read_arrays(tmp_path / 'a.pth')
    assert all(found[name].tobytes() == from_tensor(tensor).tobytes() for name, tensor in views().items())


@pytest.mark.parametrize(
    'change, says',
    [
        ({'a/data/0': bytes(19)}, 'storage 0 should have 20 bytes, its member has 19'),
        ({'a/data/0': bytes(24)}, 'storage 0 should have 20 bytes, its member has 24'),
        ({'a/data/0': None}, 'storage 0 should have 20 bytes, its member has no'),
        ({'a/byteorder': b'middle'}, 'neither little nor big'),
        ({'a/constants.pkl': b''}, 'TorchScript'),
        ({'b/data.pkl': b''}, 'holds 2 data.pkl'),
        ({'a/data.pkl': None}, 'holds 0 data.pkl'),
    ],
)
def test_records_that_are_not_as_the_pickle_says(tmp_path, change, says):
    torch.save({'a': torch.arange(5.0)}, tmp_path / 'a.pth')
    members = members_of(tmp_path / 'a.pth') | change
    zipped(tmp_path / 'b.pth', {name: data for name, data in members.items() if data is not None})
    for read in (read_arrays, read_contents):
        with pytest.raises(FileError, match=says):
            read(tmp_path / 'b.pth')


STORAGE = b'(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\4tQ'


def tensor(offset, shape, strides, storage=STORAGE):
    """The operations that make one of a storage of four numbers."""
    numbers = [b'(' + b''.join(map(number, sizes)) + b't' for sizes in (shape, strides)]
    return b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + number(offset) + b''.join(numbers) + b'\x89)tR'


# A tuple of two tuples, the same one twice, and so on: to hash, compare or write it takes for ever.
BOMB = b')' + b'q\0h\0\x86' * 60


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(data)]) + data


@pytest.mark.parametrize(
    'operations, says',
    [
        (tensor(0, (5,), (1,)), 'reaches to element 4 of a storage of 16 bytes'),
        (tensor(3, (2,), (1,)), 'reaches to element 4'),
        (tensor(0, (2, 2), (3, 1)), 'reaches to element 4'),
        (tensor(0, (2**62, 2), (0, 0)), 'claims shape'),
        (tensor(0, (0, 2**62), (1, 1)), 'claims shape'),
        (tensor(0, (1,) * 65, (1,) * 65), 'claims 65 axes'),
        (tensor(-1, (1,), (1,)), 'begins at -1'),
        (tensor(0, (1,), (2**63,)), r'strides \(9223372036854775808,\)'),
        (tensor(3, (2,), (-1,)), r'strides \(-1,\)'),
        (tensor(0, (2,), ()), r'strides \(\)'),
        (tensor(0, (-1,), (1,)), 'claims shape'),
        (tensor(0, (1,), (1,), STORAGE.replace(b'Float', b'Double')), 'should have 32 bytes'),
        (tensor(0, (1,), (1,)) + b'0' + tensor(0, (1,), (1,)), 'POP'),
        (tensor(0, (1,), (1,)) + tensor(0, (1,), (1,), STORAGE.replace(b'Float', b'Int')) + b'\x86', 'in two ways'),
        (tensor(0, (1,), (1,)) + tensor(0, (1,), (1,)), 'ends before'),
        (b'}(X\1\0\0\0a' + tensor(0, (1,), (1,)) + b'X\1\0\0\0a' + tensor(1, (1,), (1,)) + b'u', "'a' is there twice"),
        (b'}(X\1\0\0\0001' + tensor(0, (1,), (1,)) + b'K\1' + tensor(1, (1,), (1,)) + b'u', "'1' is there twice"),
        (b'ctorch._utils\n_rebuild_sparse_tensor\n', 'no dense tensor'),
        # what fills the memory, or never ends
        (b'}(X\1\0\0\0a](cbuiltins\nbytearray\n' + number(6 * 10**9) + b'\x85Reu', None),
        (b']q\0(' + b'](h\0h\0eq\0' * 60 + b'h\0e', 'nested without end'),
        (BOMB, 'nested without end'),
        (b'}' + BOMB + b'K\1s', 'no string and no number'),
        (b'cbuiltins\nset\n(]' + BOMB + b'atR', None),
        (tensor(0, (1,), (1,)).replace(number(0), BOMB, 1), 'begins at'),
        (tensor(0, (1,), (1,)).replace(b'(' + number(1) + b't', BOMB, 1), 'claims shape'),
        (STORAGE.replace(b'X\1\0\0\0000', BOMB), 'damaged: storage'),
        (b'ctorch._utils\n_rebuild_tensor\n' + BOMB + b'R', 'calls torch._utils._rebuild_tensor with'),
        (b'K\0' + BOMB + b'R', 'calls no function with'),
        (
            b'ccollections\nOrderedDict\nq\0](' + (b'K\0K\0\x86' * 5000) + b'eq\1(' + b'h\0h\1\x85R' * 5000 + b'l',
            'too large',
        ),
        (b'}' + BOMB + b'b', None),
        (b']q\0h\0a', 'nested without end'),
        (b'}q\0X\1\0\0\0ah\0s', 'nested without end'),
        (b']' * 10_000 + b'a' * 9_999, 'nested without end'),
        (b')' + b'\x85' * 10_000, 'nested without end'),
        (b'}(X\xff\0\0\0' + b'k' * 255 + b'q\1' + b'}(h\1' * 60 + b'K\1' + b'u' * 61, 'nested without end'),
        (b'}(' + b''.join(number((2**61 - 1) * i) + b'N' for i in range(20_000)) + b'u', None),
        (b'\x8b\xff\xff\xff\x7f', 'damaged'),
        (b']r\xff\xff\xff\xff', None),
        (b'X\xff\xff\xff\xff', 'damaged'),
        (b'\x96' + b'\xff' * 7 + b'\0', 'damaged'),
        (b'I' + b'9' * 10_000 + b'\n', 'damaged'),
        (b'X\xff\xff\0\0' + b'k' * 65535, None),
    ],
)
@pytest.mark.parametrize('new', [True, False])
def test_pickles_that_say_anything(tmp_path, operations, says, new):
    path, pickled = tmp_path / 'a.pth', b'\x80\x02' + operations + b'.'
    if new:
        zipped(path, {'a/data.pkl': pickled, 'a/data/0': bytes(16)})
    else:
        keys = (
            b'\x80\x02](X\1\0\0\0000e.' + struct.pack('<q', 4) + bytes(16) if b'storage' in operations else b'\x80\2].'
        )
        start = b''.join(b'\x80\x02' + number(value) + b'.' for value in (0x1950A86A20F9469CFC6C, 1001, 0))
        path.write_bytes(start + pickled + keys)
        says = says and says.replace('should have 32 bytes', 'should have 4 elements')
    for read in (read_arrays, read_contents):
        if says is None:
            read(path)
        else:
            with pytest.raises(FileError, match=says) as raised:
                read(path)
            assert str(raised.value).isprintable()


def test_names_of_storages_that_take_for_ever_to_compare(tmp_path):
    start = b''.join(b'\x80\x02' + number(value) + b'.' for value in (0x1950A86A20F9469CFC6C, 1001, 0))
    (tmp_path / 'a').write_bytes(start + b'\x80\2}.\x80\2](' + BOMB + BOMB.replace(b'\0', b'\1') + b'e.')
    with pytest.raises(FileError, match='does not hold the storages'):
        read_arrays(tmp_path / 'a')


def test_what_is_beside_the_tensors_is_told(tmp_path):
    more = {
        'set': {1},
        'bytes': b'x',
        'room': bytearray(3),
        'c': 1j,
        'dtype': torch.float8_e5m2,
        'size': torch.Size([2]),
    }
    torch.save({'w': torch.ones(2), 's': torch.ones(2).untyped_storage(), 't': '\x1b' * 99, **more}, tmp_path / 'a.pth')
    assert read_contents(tmp_path / 'a.pth').others == {
        'set': 'set',
        'bytes': 'bytes',
        'room': 'bytearray',
        'c': 'complex',
        'dtype': 'torch.float8_e5m2',
        'size/0': '2',
        's': 'storage',
        't': '"' + '\\u001b' * 9 + '\\u...',
    } and read_arrays(tmp_path / 'a.pth').keys() == {'w'}


# .npz and safetensors -----------------------------------------------------------------------------------------------


def npy(header, data=b'', version=b'\1\0'):
    text = header.encode() + b'\n'
    return b'\x93NUMPY' + version + len(text).to_bytes(2 if version == b'\1\0' else 4, 'little') + text + data


def described(descr, shape, order='False'):
    return f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    'content, says',
    [
        (npy(described('<f4', '(-1,)')), 'claims shape'),
        (npy(described('<f4', '(0, 4611686018427387904)')), 'claims shape'),
        (npy(described('<f4', (1,) * 65), bytes(4)), 'claims 65 axes'),
        (npy(described('<f4', '(True,)'), bytes(4)), 'claims shape'),
        (npy(described('<f4', '(2,)'), bytes(4)), 'has 4 bytes'),
        (npy(described('<f16', '(1,)'), bytes(16)), 'dtype float128'),
        (npy(described('<M8[s]', '(1,)'), bytes(8)), 'dtype'),
        (npy(described([('a', '<f4')], '(1,)'), bytes(4)), 'dtype'),
        (npy(described([('float8_e5m2', '<f4')], '(1,)'), bytes(4)), 'dtype'),
        (npy(described('|V1', '(1,)'), bytes(1)), r'dtype \|V1'),
        (npy(described('<f4', '()', 'None'), bytes(4)), 'damaged'),
        (npy("{'descr': '\\d'}"), 'damaged'),
        (npy('[' * 500), 'damaged'),
        (npy('9' * 20_000), 'damaged'),
        (npy(described('<f4', '()'), bytes(4), b'\4\0'), 'damaged'),
        (b'', 'damaged'),
    ],
)
def test_headers_of_npy_that_say_anything(tmp_path, content, says, recwarn):
    zipped(tmp_path / 'a.npz', {'a.npy': content})
    for read in (read_arrays, read_contents):
        with pytest.raises(FileError, match=says):
            read(tmp_path / 'a.npz')
    assert not recwarn.list


def test_other_orders_of_bytes_and_axes(tmp_path):
    array = np.arange(6, dtype='>f8').reshape(2, 3)
    np.savez(tmp_path / 'a.npz', swapped=array, fortran=np.asfortranarray(array))
    for found in read_arrays(tmp_path / 'a.npz').values():
        assert found.dtype == np.float64 and found.dtype.isnative and (found == array).all()


@pytest.mark.parametrize(
    'header, says',
    [
        ({'a': ('F32', [1] * 100, 0, 4)}, 'claims 100 axes'),
        ({'a': ('F32', [0, 2**62], 0, 0)}, 'claims shape'),
        ({'a': ('F32', [-1], 0, 4)}, 'claims shape'),
        ({'a': ('F32', [1.0], 0, 4)}, 'claims shape'),
        ({'a': ('F32', [2], 0, 4)}, 'is at bytes 0 to 4'),
        ({'a': ('F32', [1], 0, 4), 'b': ('F32', [1], 2, 6)}, 'the array before ends at 4'),
        ({'a': ('F32', [1], 0, 4), 'b': ('F32', [1], 8, 12)}, 'the array before ends at 4'),
        ({'a': ('F32', [1], 0, 4)}, 'end at byte'),
        ({'a': ('F4', [1], 0, 4)}, 'dtype F4'),
        ({'a': (['F32'], [1], 0, 4)}, 'damaged'),
        ({'a' * 2000: ('F32', [3], 0, 12)}, 'a name of 2000 characters'),
        (b'{"a":1,"a":2}', "'a' is there twice"),
        (b'{"a":{"dtype":"F32","dtype":"F32"}}', "'dtype' is there twice"),
        (b'{"__metadata__":{"a":1}}', 'no table of strings'),
        (b'{"\\ud800":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}', 'damaged'),
        (b'{"a":' + b'[' * 100_000, 'damaged'),
        (b'{"a":' + b'9' * 5000, 'damaged'),
        (b'{"a":NaN}', 'damaged'),
        (b'{"a":null}', 'damaged'),
        (b'{"\xff":1}', 'damaged'),
    ],
)
def test_headers_of_safetensors_that_say_anything(tmp_path, header, says):
    if isinstance(header, dict):
        keys = 'dtype', 'shape', 'data_offsets'
        header = {
            name: dict(zip(keys, (dtype, shape, at), strict=True)) for name, (dtype, shape, *at) in header.items()
        }
        header = json.dumps(header).encode()
    (tmp_path / 'a').write_bytes(len(header).to_bytes(8, 'little') + header + bytes(12))
    for read in (read_arrays, read_contents):
        with pytest.raises(FileError, match=says):
            read(tmp_path / 'a')


def test_members_that_are_odd(tmp_path):
    content = npy(described('<f4', '()'), bytes(4))
    with warnings.catch_warnings(action='ignore'), zipfile.ZipFile(tmp_path / 'twice.npz', 'w') as archive:
        archive.writestr('a.npy', content)
        archive.writestr('a.npy', content)
    zipped(tmp_path / 'folders.npz', {'a/': b'', 'a/b.npy': content})
    assert read_arrays(tmp_path / 'folders.npz').keys() == {'a/b'}
    zipped(tmp_path / 'full.npz', {'a.npy': content, 'b/': content})
    with pytest.raises(FileError, match='none of PyTorch'):
        read_arrays(tmp_path / 'full.npz')
    zipped(tmp_path / 'lzma.npz', {'a.npy': content}, zipfile.ZIP_LZMA)
    zipped(tmp_path / 'a.npz', {'a.npy': content})
    data = (tmp_path / 'a.npz').read_bytes()
    for flag, mark in ((6, b'PK\3\4'), (8, b'PK\1\2')):
        place = data.index(mark) + flag
        data = data[:place] + b'\1' + data[place + 1 :]
    (tmp_path / 'locked.npz').write_bytes(data)
    for name, says in (('twice', "'a.npy' is there twice"), ('lzma', 'by method 14'), ('locked', 'is encrypted')):
        with pytest.raises(FileError, match=says):
            read_arrays(tmp_path / f'{name}.npz')


# orbax --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def zarr(tmp_path_factory):
    """Two arrays without orbax's database: every array has a description that can be read and changed."""
    path = tmp_path_factory.mktemp('orbax') / 'a'
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(path, {'a': np.arange(1000.0), 'b': {'c': np.ones((2, 3), np.float32)}})
    return path


@pytest.mark.parametrize(
    'change, says',
    [
        (None, None),
        ({'shape': [2**40]}, 'refused: its .* inflate to 8 TiB'),
        ({'chunks': [2**33]}, 'refused: its .* inflate to 64 GiB'),
        ({'shape': [0, 2**62], 'chunks': [1, 1]}, 'claims shape|damaged'),
        ({'shape': [2000]}, 'damaged'),
        ({'dtype': '<f4'}, 'damaged'),
        ('0', 'damaged'),
        ('.zarray', 'damaged'),
        ('fifo', 'is no file'),
        ('zero', 'is no file'),
        ('{', 'damaged'),
        ('{}', 'damaged'),
    ],
)
def test_orbax_folders_that_say_anything(tmp_path, zarr, change, says, capfd):
    path = tmp_path / 'a'
    shutil.copytree(zarr, path)
    if isinstance(change, dict):
        described = path / 'a' / '.zarray'
        described.write_text(json.dumps(json.loads(described.read_text()) | change))
    elif change in ('0', '.zarray'):
        (path / 'a' / change).unlink()
    elif change == 'fifo':
        os.mkfifo(path / 'a' / 'x')
    elif change == 'zero':
        (path / 'x').symlink_to('/dev/zero')
    elif change:
        (path / '_METADATA').write_text(change)
    if says is None:
        assert (read_arrays(path)['a'] == np.arange(1000)).all()
    else:
        with pytest.raises(FileError, match=says) as raised:
            read_arrays(path)
        assert 'NoneType' not in str(raised.value)
    assert capfd.readouterr().err == ''


def test_an_orbax_folder_of_more_than_arrays(tmp_path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / 'a', {'w': np.ones(2), 'step': 3, 'rate': [0.5, (1,)], 'name': 'x', 'none': None})
    contents, arrays = read_contents(tmp_path / 'a'), read_arrays(tmp_path / 'a')
    assert contents.others == {'name': 'string'} and contents.specs.keys() == arrays.keys()
    assert (arrays['step'], arrays['rate/0'], arrays['rate/1/0']) == (3, 0.5, 1) and arrays['w'].tolist() == [1, 1]


def test_names_that_no_folder_holds(tmp_path):
    for arrays in ({'a': np.ones(1), 'a/b': np.ones(1)}, {'a/b': np.ones(1), 'a': np.ones(1)}, {'a': np.zeros(0)}):
        with pytest.raises(FileError, match=r'no folder can hold|cannot hold'):
            write_arrays(tmp_path / 'a', arrays)
    assert not [*tmp_path.iterdir()]


# places -------------------------------------------------------------------------------------------------------------


def test_places_that_are_no_files(tmp_path):
    (tmp_path / 'empty').touch()
    os.mkfifo(tmp_path / 'fifo')
    for path, says in (
        ('n' * 5000, 'File name too long'),
        (tmp_path / 'fifo', 'a device or pipe'),
        ('/dev/zero', 'a device or pipe'),
        (tmp_path / 'empty', 'it is empty'),
        (tmp_path, 'is a directory'),
        ('a\0b', 'no such file'),
        (os.fsdecode(b'\xff\xfe'), 'no such file'),
        (tmp_path / 'empty' / 'a', 'no such file'),
    ):
        for read in (read_arrays, read_contents):
            with pytest.raises(FileError, match=says) as raised:
                read(path)
            assert str(raised.value).isprintable()
    arrays = {'a': np.ones(1)}
    for path, says in (
        (tmp_path / 'empty' / 'a.npz', 'File exists'),
        (f'{tmp_path}/{"n" * 300}.npz', 'File name too long'),
        ('/dev/null', 'a device or pipe: it is not replaced'),
        (tmp_path / 'fifo', 'a device or pipe: it is not replaced'),
        ('/proc/a.npz', 'cannot be written'),
    ):
        with pytest.raises(FileError, match=says):
            write_arrays(path, arrays, force=True)
    for name in ('a', 'a.pth', 'a.npz', 'a.safetensors'):
        with pytest.raises(FileError, match='a has dtype str32, which numpy and JAX have no arrays of'):
            write_arrays(tmp_path / name, {'a': np.array(['x'])})


def test_a_full_disk(tmp_path):
    """The old file stays, and the message is the system's."""
    code = """
import resource, signal, sys, numpy as np
from vit_flax.weights.files import FileError, write_arrays
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for name in sys.argv[1:]:
    write_arrays(name, {'params/a': np.ones(2)})
    try:
        write_arrays(name, {'params/a': np.random.default_rng(0).normal(size=10_000)}, force=True)
    except FileError as error:
        print(error)
"""
    names = [str(tmp_path / name) for name in KINDS]
    done = subprocess.run([sys.executable, '-c', code, *names], capture_output=True, text=True)
    assert done.stdout.count('\n') == len(KINDS) and not done.stderr
    # orbax says it in its own words
    assert done.stdout.count('File too large') >= len(KINDS) - 1
    assert all(read_arrays(name)['params/a'].tolist() == [1, 1] for name in names)
    assert len([*tmp_path.iterdir()]) == len(KINDS)


KILLED = """
import os, shutil, signal, sys, numpy as np
from pathlib import Path
from vit_flax.weights import files
where, platform = Path(sys.argv[1]), sys.platform

def file(path):
    files.write_arrays(path, {'a': np.ones(1)}, force=True)

def folder(path):
    new = path.with_name('new')
    new.mkdir()
    (new / 'new').touch()
    files.swap(new, path)
    shutil.rmtree(new)

def whole(path):
    if path.suffix:
        return files.read_arrays(path)['a'].tolist()
    return [[file.name for file in folder.iterdir()] for folder in (path, Path(f'{path}.old')) if folder.exists()]

for replace, sys.platform in ((file, platform), (folder, platform), (folder, 'another')):
    ended = steps = 0
    while not ended:
        path = where / sys.platform / f'{replace.__name__}{steps}' / ('a.npz' if replace is file else 'a')
        path.parent.mkdir(parents=True)
        if replace is file:
            files.write_arrays(path, {'a': np.zeros(1)})
        else:
            path.mkdir()
            (path / 'old').touch()
        child = os.fork()
        if not child:
            left = steps

            def kill(event, args):
                global left
                left -= 1
                if left == -1:  # killing is told of as well
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(kill)
            replace(path)
            os._exit(0)
        ended = os.waitpid(child, 0)[1] == 0
        found = whole(path)
        assert found in ([0.0], [1.0]) if replace is file else ['old'] in found or ['new'] in found, found
        assert path.exists() or sys.platform == 'another'
        steps += 1
    print(steps)
"""


def test_killed_at_each_step_the_old_or_the_new_is_whole(tmp_path):
    """Before each thing that the interpreter does with files; where folders cannot be swapped, under another name."""
    done = subprocess.run([sys.executable, '-c', KILLED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [int(steps) > 5 for steps in done.stdout.split()] == [True, True, True]


@pytest.mark.parametrize(
    'kind, files', [('torch', 120), ('npz', 150), ('safetensors', 200), ('msgpack', 100), ('orbax', 25)]
)
def test_damaged_and_hostile_files(tmp_path, kind, files):
    """A few of those that benchmarks/fuzz_weights.py makes by the thousand."""
    fuzz = importlib.import_module('benchmarks.fuzz_weights')
    outcomes = [fuzz.attempt(kind, seed, tmp_path) for seed in range(files)]
    assert not [(seed, *outcome) for seed, outcome in enumerate(outcomes) if outcome[0] in fuzz.BAD]
    assert {outcome for outcome, _ in outcomes} >= {'read right', 'refused'}
