import os
import pickle
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

from vit_flax.weights import files
from vit_flax.weights.files import FileError, file_kind, read_arrays, read_contents, write_arrays
from vit_flax.weights.formats import common

KINDS = ('weights.pth', 'weights.safetensors', 'weights.npz', 'weights')


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        'params/block_0/kernel': rng.normal(size=(3, 4)).astype(np.float32),
        'params/block_0/half': rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
        'params/scalar': np.array(2.5, np.float64),
        'params/empty': np.zeros((0, 7), np.float32),
        'params/transposed': rng.normal(size=(3, 5)).astype(np.float16).T,
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
    with pytest.raises(FileError, match=r'no file of PyTorch, no safetensors file and no \.npz'):
        file_kind(tmp_path / 'b.pth')
    with pytest.raises(FileError, match='no orbax checkpoint'):
        file_kind(tmp_path)
    write_arrays(tmp_path / '100' / 'state', arrays | {'params/empty': np.zeros(1)})
    with pytest.raises(FileError, match=r'there is one in .*state'):
        file_kind(tmp_path / '100')
    with pytest.raises(FileError, match='no such file'):
        file_kind(tmp_path / 'c.pth')


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
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'thesis.tex').write_text('years of work')
    with pytest.raises(FileError, match='no orbax checkpoint'):
        write_arrays(tmp_path / 'folder', arrays, force=True)
    with pytest.raises(FileError, match=r"'\.h5'"):
        write_arrays(tmp_path / 'a.h5', arrays)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / 'a.npz'
    write_arrays(path, {'a': np.zeros(1)})
    with pytest.raises(FileError, match=r'float8_e4m3fn.*write \.safetensors'):
        write_arrays(path, {'b': np.ones(1), 'a': np.zeros(2, ml_dtypes.float8_e4m3fn)}, force=True)
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


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors', 'weights.npz'])
@pytest.mark.parametrize('kept', [0.95, 0.5, 0.05])
def test_damaged_files(tmp_path, arrays, name, kept):
    path = tmp_path / name
    write_arrays(path, arrays)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(FileError, match=r'damaged|no file of'):
        read_arrays(path)


def test_missing_libraries_are_named(tmp_path):
    torch.save({'a': torch.ones(1)}, tmp_path / 'a.pth')
    code = (
        'import sys; sys.modules["torch"] = None; from vit_flax.weights.files import read_arrays\n'
        f'read_arrays({str(tmp_path / "a.pth")!r})'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert "a.pth needs torch, which is missing: pip install 'vit-linen[torch]'" in done.stderr
