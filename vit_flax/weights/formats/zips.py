"""Zip archives that may hold anything: what is read of them is right, or refused."""

import contextlib
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import IO

import numpy as np

from vit_flax.printing import shown
from vit_flax.weights.formats.common import FileError, check_inflation, told

# What PyTorch and numpy write. Others may ask for gigabytes of dictionary in a few bytes.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
CHUNK = 2**24


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The archive and its members by name, without the folders that some programs list.

    Raises:
      FileError: it is damaged or encrypted, two members have one name, one climbs out of the folder or is compressed in
        an unusual way, or all of them inflate to too much; and whatever goes wrong while it is open.
    """
    with told(path), warnings.catch_warnings(action='ignore'), zipfile.ZipFile(path) as archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = member.orig_filename
            parts = re.split(r'[/\\]', name)
            if '..' in parts or not parts[0] or PureWindowsPath(name).drive or '\0' in name:
                raise FileError(f'{shown(path)}: refused: its member {shown(repr(name))} climbs out of the folder')
            if name in members:
                raise FileError(f'{shown(path)}: refused: its member {shown(repr(name))} is there twice')
            if member.compress_type not in METHODS or member.flag_bits & 1:
                how = 'encrypted' if member.flag_bits & 1 else f'compressed by method {member.compress_type}'
                raise FileError(f'{shown(path)}: refused: its member {shown(repr(name))} is {how}')
            if member.file_size or not member.is_dir():
                members[name] = member
        check_inflation(path, sum(member.file_size for member in members.values()))
        yield archive, members


def read(file: IO[bytes], size: int) -> np.ndarray:
    """The next bytes of an open member, in memory of their own.

    Raises:
      EOFError: there are fewer.
    """
    data = np.empty(size, np.uint8)
    view = data.data
    while len(view):
        piece = file.read(min(len(view), CHUNK))
        if not piece:
            raise EOFError(f'{len(view)} of {size} bytes are missing')
        view[: len(piece)] = piece
        view = view[len(piece) :]
    return data
