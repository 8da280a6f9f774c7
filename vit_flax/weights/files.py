"""Files of weights: PyTorch's, safetensors, `.npz`, and orbax directories, as flat names to numpy arrays.

What kind a file is follows from its content, never from its name. Nothing in a file can run code, and a file that
would fill the memory with what it inflates to is refused before it is read. torch, safetensors and orbax are
imported when such a file is met.
"""

import contextlib
import importlib
import json
import math
import os
import re
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

# More than both is taken for a bomb: weights hardly compress, and a few GiB fit into any machine.
MAX_INFLATED = 4 * 2**30
MAX_RATIO = 100

# Suffix to write -> kind of file; a name without suffix is an orbax directory.
SUFFIXES = {'.pth': 'torch', '.pt': 'torch', '.bin': 'torch', '.safetensors': 'safetensors', '.npz': 'npz', '': 'orbax'}

# numpy knows these by ml_dtypes alone, and PyTorch hands none of them to numpy.
NARROW = {
    'torch.bfloat16': ml_dtypes.bfloat16,
    'torch.float8_e4m3fn': ml_dtypes.float8_e4m3fn,
    'torch.float8_e5m2': ml_dtypes.float8_e5m2,
}
SAFETENSORS = {'F': 'float', 'I': 'int', 'U': 'uint', 'C': 'complex', 'BF': 'bfloat'}


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


@dataclass(frozen=True)
class Contents:
    """What a file says of itself.

    Attributes:
      kind: `torch`, `safetensors`, `npz` or `orbax`.
      specs: names to shapes; nested names are joined with `/`.
      others: what is in it beside arrays: names to a short description.
    """

    kind: str
    specs: Mapping[str, Spec]
    others: Mapping[str, str]


def file_kind(path: str | Path) -> str:
    """`torch`, `safetensors`, `npz` or `orbax`, from the content.

    Raises:
      FileError: there is no such file, or it is none of these.
    """
    path = Path(path)
    if path.is_dir():
        if (path / '_METADATA').exists():
            return 'orbax'
        inside = sorted(str(found.parent) for found in path.glob('*/_METADATA'))
        hint = f'; there is one in {", ".join(inside)}' if inside else ''
        raise FileError(f'{path} is a directory, but no orbax checkpoint of arrays: it has no _METADATA{hint}')
    if not path.is_file():
        raise FileError(f'{path}: there is no such file')
    with path.open('rb') as file:
        head = file.read(9)
    if head[:4] == b'PK\x03\x04':
        names = [info.filename for info in _members(path)]
        return 'npz' if names and all(name.endswith('.npy') for name in names) else 'torch'
    if len(head) == 9 and head[8:] == b'{' and struct.unpack('<Q', head[:8])[0] <= path.stat().st_size:
        return 'safetensors'
    if head[:1] == b'\x80':  # a pickle: PyTorch's format before 1.6
        return 'torch'
    raise FileError(f'{path} is no file of PyTorch, no safetensors file and no .npz')


def read_contents(path: str | Path, key: str = '') -> Contents:
    """Names, shapes and dtypes, without the numbers where the format can (all but PyTorch's before 1.6).

    Args:
      path: the file, or an orbax directory.
      key: the part of a nested file to look at, levels joined with `/`: `state_dict`.

    Raises:
      FileError: the file is missing, damaged, of no known kind, or refused.
    """
    path, kind = Path(path), file_kind(path)
    if kind == 'torch':
        leaves = _below(path, _flatten(_load_torch(path)), key)
        specs = {name: Spec(tuple(v.shape), str(v.dtype).removeprefix('torch.')) for name, v in _tensors(leaves)}
        others = {name: _describe(value) for name, value in leaves.items() if not _is_tensor(value)}
        return Contents(kind, specs, others)
    read = {'safetensors': _safetensors_specs, 'npz': _npz_specs, 'orbax': _orbax_specs}[kind]
    return Contents(kind, _below(path, read(path), key), {})


def read_arrays(path: str | Path, key: str = '') -> dict[str, np.ndarray]:
    """All arrays of a file, bit for bit, by name; nested names are joined with `/`.

    Args:
      path: the file, or an orbax directory.
      key: the part of a nested file to read, levels joined with `/`: `state_dict`.

    Raises:
      FileError: the file is missing, damaged, of no known kind, or refused, or it has no such part.
    """
    path, kind = Path(path), file_kind(path)
    if kind == 'torch':
        tensors = dict(_tensors(_below(path, _flatten(_load_torch(path)), key)))
        # a tensor may show one number many times
        _check_inflation(path, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
        return {name: _from_torch_tensor(path, name, tensor) for name, tensor in tensors.items()}
    read = {'safetensors': _read_safetensors, 'npz': _read_npz, 'orbax': _read_orbax}[kind]
    return _below(path, read(path), key)


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], *, force: bool = False) -> None:
    """Writes arrays to the kind of file that the name's suffix says, all of it or nothing.

    Args:
      path: `.pth`, `.pt`, `.bin`, `.safetensors`, `.npz`; without suffix an orbax directory, nested at each `/`.
      arrays: by name.
      force: replace what is there.

    Raises:
      FileError: another suffix, something is there, or the format cannot hold an array's dtype.
    """
    path = Path(path)
    kind = kind_to_write(path, force=force)
    write = {'torch': _write_torch, 'safetensors': _write_safetensors, 'npz': _write_npz, 'orbax': _write_orbax}[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename and no half a file is ever seen.
    with tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent) as folder:
        new, old = Path(folder, 'new'), Path(folder, 'old')
        write(new, {name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in arrays.items()})
        if path.is_dir():  # a directory cannot be renamed over another
            os.rename(path, old)
        os.replace(new, path)


def kind_to_write(path: str | Path, *, force: bool = False) -> str:
    """The kind of file that a name's suffix asks for.

    Raises:
      FileError: another suffix, or something is there that must not or cannot be replaced.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        known = ', '.join(filter(None, SUFFIXES))
        raise FileError(f'{path}: what kind of file is {path.suffix!r}? Use {known}, or no suffix for an orbax folder')
    if path.exists() or path.is_symlink():
        if not force:
            raise FileError(f'{path} is there already: --force replaces it')
        if path.is_dir() and (SUFFIXES[path.suffix] != 'orbax' or file_kind(path) != 'orbax'):
            raise FileError(f'{path} is a folder with other things in it: it is not replaced')
    return SUFFIXES[path.suffix]


# zip files ----------------------------------------------------------------------------------------------------------


def _members(path: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip file that can be trusted to be opened."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise FileError(f'{path} is damaged: {error}') from error
    for member in members:
        name = member.orig_filename
        parts = re.split(r'[/\\]', name)
        if '..' in parts or not parts[0] or PureWindowsPath(name).drive or '\0' in name:
            raise FileError(f'{path}: refused: its member {name!r} climbs out of the folder')
    _check_inflation(path, sum(member.file_size for member in members))
    return members


def _check_inflation(path: Path, inflated: int) -> None:
    size = path.stat().st_size
    if inflated > MAX_INFLATED and inflated > MAX_RATIO * size:
        raise FileError(
            f'{path}: refused: its {_bytes(size)} inflate to {_bytes(inflated)}, more than {MAX_RATIO} times as much'
        )


def _bytes(size: float) -> str:
    for unit in ('bytes', 'KiB', 'MiB', 'GiB'):
        if size < 1024:
            break
        size, unit = size / 1024, 'TiB'
    return f'{size:.4g} {unit}'


# .npz ---------------------------------------------------------------------------------------------------------------


def _npz_members(path: Path) -> Iterator[tuple[str, zipfile.ZipFile, zipfile.ZipInfo, Any]]:
    """Name, archive, member and header `(shape, fortran_order, dtype)` of each array."""
    members = _members(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                name = member.filename.removesuffix('.npy')
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0
                    read = read if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, fortran, dtype = read(file)
                    length = member.file_size - file.tell()
                if dtype.hasobject:
                    raise FileError(f'{path}: refused: {name} is a pickle, which could run code')
                if math.prod(shape) * dtype.itemsize != length:  # numpy would make room for what the header says
                    raise FileError(f'{path}: refused: {name} claims shape {shape}, but has {length} bytes')
                yield name, archive, member, (shape, fortran, _named(path, name, dtype))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.error) as error:
        raise error if isinstance(error, FileError) else FileError(f'{path} is damaged: {error}') from error


def _named(path: Path, name: str, dtype: np.dtype) -> np.dtype:
    """numpy writes bfloat16 as two nameless bytes, as JAX does too."""
    if dtype == np.dtype('V2'):
        return np.dtype(ml_dtypes.bfloat16)
    if dtype.kind not in 'biufc':
        raise FileError(f'{path}: {name} has dtype {dtype}, which is no number')
    return dtype


def _npz_specs(path: Path) -> dict[str, Spec]:
    return {name: Spec(shape, dtype.name) for name, _, _, (shape, _, dtype) in _npz_members(path)}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for name, archive, member, (_, _, dtype) in _npz_members(path):
        with archive.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        arrays[name] = array.view(dtype) if array.dtype.kind == 'V' else array
    return arrays


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == 'V' and array.dtype != ml_dtypes.bfloat16:
            raise FileError(f'{name} is {array.dtype}, which an .npz file cannot hold: write .safetensors')
    # by hand, since np.savez would take an array called `file` for its own argument
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            plain = array.view('V2') if array.dtype == ml_dtypes.bfloat16 else array
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                np.lib.format.write_array(member, plain, allow_pickle=False)


# safetensors --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    safetensors = _need('safetensors', 'weights', path)
    try:
        with safetensors.safe_open(path, framework='np') as file:
            yield file
    except (safetensors.SafetensorError, AttributeError, TypeError, KeyError) as error:
        # numpy without a name for a dtype is an AttributeError there
        raise FileError(f'{path} is damaged or has a dtype that numpy lacks: {error}') from error


def _safetensors_specs(path: Path) -> dict[str, Spec]:
    specs = {}
    with _open_safetensors(path) as file:
        for name in file.keys():  # noqa: SIM118  (not a mapping)
            entry = file.get_slice(name)
            code = re.fullmatch(r'([A-Z]+)(\d.*)', entry.get_dtype())
            dtype = SAFETENSORS.get(code[1], code[1]) + code[2].lower() if code else entry.get_dtype().lower()
            specs[name] = Spec(tuple(entry.get_shape()), dtype)
    return specs


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with _open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    _need('safetensors', 'weights', path)
    try:
        importlib.import_module('safetensors.numpy').save_file(dict(arrays), path)
    except (importlib.import_module('safetensors').SafetensorError, ValueError, TypeError) as error:
        raise FileError(f'not written as safetensors: {error}') from error


# PyTorch ------------------------------------------------------------------------------------------------------------


def _load_torch(path: Path) -> Any:
    torch = _need('torch', 'torch', path)
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _members(path)
    try:
        # mapped: shapes are known without reading the numbers
        with warnings.catch_warnings(action='ignore'):
            return torch.load(path, map_location='cpu', weights_only=True, mmap=is_zip)
    except Exception as error:  # torch raises whatever its readers met
        text = ' '.join(str(error).split())
        found = re.search(r'GLOBAL (\S+)', text)
        if found:
            raise FileError(
                f'{path}: refused: its pickle asks for {found[1]}, which could run code; only tensors, numbers, '
                'strings and containers of them are read. Save model.state_dict() instead'
            ) from error
        if 'weights_only' in text or 'Unsupported' in text:
            raise FileError(f'{path}: refused: its pickle holds more than tensors ({text[:150]})') from error
        raise FileError(f'{path} is damaged: {text[:200] or type(error).__name__}') from error


def _is_tensor(value: Any) -> bool:
    return hasattr(value, 'detach') and hasattr(value, 'numel')


def _tensors(leaves: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in leaves.items():
        if _is_tensor(value):
            yield name, value.detach()


def _from_torch_tensor(path: Path, name: str, tensor: Any) -> np.ndarray:
    narrow = NARROW.get(str(tensor.dtype))
    try:
        if narrow is not None:
            torch = importlib.import_module('torch')
            bits = torch.int16 if tensor.element_size() == 2 else torch.uint8
            return tensor.contiguous().view(bits).numpy().view(narrow)
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise FileError(f'{path}: {name} is {tensor.dtype} {tensor.layout}, which numpy has no arrays for') from error


def _write_torch(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    torch = _need('torch', 'torch', path)
    names = {np.dtype(narrow): name for name, narrow in NARROW.items()}
    tensors = {}
    for name, array in arrays.items():
        narrow = names.get(array.dtype)
        writable = np.array(array)
        if narrow is None:
            tensors[name] = torch.from_numpy(writable)
        else:
            bits = writable.view(np.int16 if array.dtype.itemsize == 2 else np.uint8)
            tensors[name] = torch.from_numpy(bits).view(getattr(torch, narrow.removeprefix('torch.')))
    torch.save(tensors, path)


# orbax --------------------------------------------------------------------------------------------------------------


def _orbax(path: Path) -> ModuleType:
    return _need('orbax.checkpoint', 'weights', path)


def _orbax_tree(path: Path, read: Callable[[Any], Any]) -> dict[str, Any]:
    ocp = _orbax(path)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return _flatten(read(checkpointer))
    except Exception as error:  # orbax and tensorstore raise whatever they met
        raise FileError(f'{path} is damaged or no checkpoint of one tree: {str(error)[:200]}') from error


def _orbax_specs(path: Path) -> dict[str, Spec]:
    leaves = _orbax_tree(path, lambda checkpointer: checkpointer.metadata(path.absolute()).item_metadata.tree)
    arrays = {name: leaf for name, leaf in leaves.items() if hasattr(leaf, 'shape') and leaf.shape is not None}
    return {name: Spec(tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in arrays.items()}


def _read_orbax(path: Path) -> dict[str, np.ndarray]:
    ocp = _orbax(path)

    def read(checkpointer):
        tree = checkpointer.metadata(path.absolute()).item_metadata.tree
        # as numpy arrays, on whatever devices they were written
        as_numpy = importlib.import_module('jax').tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(path.absolute(), restore_args=as_numpy)

    return {name: np.asarray(leaf) for name, leaf in _orbax_tree(path, read).items() if hasattr(leaf, 'shape')}


def _write_orbax(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    ocp = _orbax(path)
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split('/')
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = array
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree)


# nested names -------------------------------------------------------------------------------------------------------


def _flatten(tree: Any, prefix: str = '') -> dict[str, Any]:
    """Leaves by their names; levels are joined with `/`, names that hold dots stay as they are."""
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list | tuple) and tree:
        items = dict(enumerate(tree)).items()
    else:
        return {prefix or 'value': tree}
    leaves: dict[str, Any] = {}
    for name, value in items:
        leaves |= _flatten(value, f'{prefix}/{name}' if prefix else str(name))
    return leaves


def _below(path: Path, leaves: dict[str, Any], key: str) -> dict[str, Any]:
    """The leaves whose names begin with `key/`, without it."""
    if not key:
        return leaves
    found = {name[len(key) + 1 :]: leaf for name, leaf in leaves.items() if name.startswith(f'{key}/')}
    if not found:
        tops = sorted({name.partition('/')[0] for name in leaves if '/' in name})
        there = f'there are {", ".join(tops)}' if tops else 'its names are not nested'
        raise FileError(f'{path} has nothing under {key!r}: {there}')
    return found


def _describe(value: Any) -> str:
    text = json.dumps(value, default=lambda other: type(other).__name__)
    return text if len(text) < 60 else text[:57] + '...'


def _need(module: str, extra: str, path: Path) -> ModuleType:
    """An optional library, or a message that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition('.')[0]
        raise FileError(f"{path.name} needs {name}, which is missing: pip install 'vit-linen[{extra}]'") from error
