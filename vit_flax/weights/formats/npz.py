"""numpy's `.npz`: a zip archive of `.npy` files.

Dtypes that numpy lacks: bfloat16 is two nameless bytes, as JAX writes it; those of one byte are a structure with one
field that bears their name, which numpy reads as well.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from vit_flax.printing import shown
from vit_flax.weights.formats import zips
from vit_flax.weights.formats.common import DTYPES, NARROW, FileError, Listing, Spec, check_array

BFLOAT16 = NARROW['bfloat16']
# The third version differs from the second in the names of fields alone.
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}


def listing(path: Path) -> Listing:
    """Names, shapes and dtypes; no numbers are read."""
    specs = {}
    with zips.opened(path) as (archive, members):
        for member in members.values():
            with archive.open(member) as file:
                name, specs[name], _ = _header(path, member, file)
    return Listing(specs)


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays."""
    arrays = {}
    with zips.opened(path) as (archive, members):
        for member in members.values():
            with archive.open(member) as file:
                name, spec, (fortran, dtype) = _header(path, member, file)
                array = zips.read(file, spec.nbytes).view(dtype).reshape(spec.shape, order='F' if fortran else 'C')
                file.read(1)  # at the end of a member its checksum is compared
            wanted = DTYPES[spec.dtype]
            # nameless bytes become what they are, swapped ones native
            arrays[name] = array.view(wanted) if dtype.kind == 'V' else array.astype(wanted, copy=False)
    return arrays


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # by hand, since np.savez would take an array called `file` for its own argument
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            if array.dtype.name in NARROW:
                plain = 'V2' if array.dtype == BFLOAT16 else [(array.dtype.name, 'u1')]
                array = array.view(np.dtype(plain))
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _header(path: Path, member: zipfile.ZipInfo, file: IO[bytes]) -> tuple[str, Spec, tuple[bool, np.dtype]]:
    """Name, shape and dtype of an array, and the order and dtype of its bytes, which follow in the open member."""
    name = member.filename.removesuffix('.npy')
    version = np.lib.format.read_magic(file)
    shape, fortran, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise FileError(f'{shown(path)}: refused: {shown(name)} is a pickle, which could run code')
    spec = check_array(path, name, shape, _dtype_name(dtype))
    length = member.file_size - file.tell()
    if spec.nbytes != length:  # numpy would make room for what the header says
        raise FileError(f'{shown(path)}: refused: {shown(name)} claims shape {spec.shape}, but has {length} bytes')
    return name, spec, (fortran, dtype)


def _dtype_name(dtype: np.dtype) -> str:
    if dtype == np.dtype('V2'):
        return BFLOAT16.name
    if dtype.names and len(dtype.names) == 1 and dtype.itemsize == 1 and dtype.names[0] in NARROW:
        return dtype.names[0]
    return dtype.name if dtype.kind in 'biufc' else str(dtype)
