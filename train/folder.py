"""The folder of a run: made once, found again by the same command."""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from train.config import Config, differences, from_json, to_json
from train.errors import UserError
from train.facts import FILE, Facts
from train.places import place_to_write
from train.together import of_first

SUMMARY = 'summary.json'
LOCK = 'lock'
# Seconds after which a file that one host has written is seen on another.
SEEN = 10.0


def open_folder(config: Config) -> Path:
    """The absolute path of the run's folder, with its `config.json` and `data.json`.

    Raises:
      UserError: the folder holds something else, a run of another config, or of other data.
    """
    folder = place_to_write(config.out, 'out').absolute()
    written = folder / 'config.json'
    started = folder / 'config.tmp'
    if folder.exists() and not folder.is_dir():
        raise UserError(f'--out {config.out} is a file, not a folder')
    if written.exists():
        _check_same(config, written)
    elif folder.exists() and (foreign := sorted(p.name for p in folder.iterdir() if p != started)):
        raise UserError(f'--out {config.out} is no run of this trainer, it holds {foreign[0]!r}: choose another --out')
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            started.write_text(json.dumps(to_json(config), indent=2) + '\n')
            os.replace(started, written)
        except OSError as error:
            raise UserError(f'--out {config.out} cannot be written: {error.strerror}') from error
    facts = Facts.of(config)
    if (folder / FILE).exists():
        Facts.read(folder).check_same(facts, config.out)
    else:
        facts.write(folder)
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: it cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(error.strerror) from error
    except RecursionError as error:
        raise ValueError('it is nested too deeply') from error
    if not isinstance(values, dict):
        raise ValueError(f'it holds {"a list" if isinstance(values, list) else repr(values)[:40]}, not an object')
    return values


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What a finished run wrote at its end; None if it is not finished, or if that is damaged: the same command then
    writes it anew from the newest checkpoint."""
    if not (folder / SUMMARY).is_file():
        return None
    try:
        summary = read_json(folder / SUMMARY)
    except ValueError:
        return None
    numbers = (value for value in summary.values() if not isinstance(value, dict))
    return summary if summary and all(isinstance(value, int | float) for value in numbers) else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the folder for as long as this one lives, however it ends.

    Raises:
      UserError: another process has the folder.
    """
    with (folder / LOCK).open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f'another process is training in {folder}: wait for it, or choose another --out') from error
        except OSError:  # a file system without locks
            pass
        yield


def check_shared(folder: Path) -> None:
    """Whether all hosts have the same folder under this path; every process must ask, process 0 with the lock.

    Raises:
      UserError: this host has another one, such as on its own disk.
    """
    if jax.process_count() == 1:
        return
    written = secrets.randbits(30)
    if jax.process_index() == 0:
        (folder / LOCK).write_text(f'{written}\n')
    expected, end = str(of_first(written)), time.monotonic() + SEEN
    while _first_line(folder / LOCK) != expected:
        if time.monotonic() > end:
            raise UserError(
                f'--out {folder} is not the folder that process 0 has under this path: name one that all hosts share, '
                'such as on NFS or a mounted bucket'
            )
        time.sleep(0.1)


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition('\n')[0]
    except (OSError, ValueError):
        return ''


def _check_same(config: Config, written: Path) -> None:
    try:
        old = read_json(written)
    except ValueError as error:
        raise UserError(f'{written} cannot be read ({error}): choose another --out') from error
    with suppress(
        UserError
    ):  # of options that an earlier version did not have it says nothing: they had their defaults
        old = to_json(from_json(old))
    changed = differences(old, to_json(config))
    if changed:
        listed = '\n'.join(f'  {key}: {was!r} there, {now!r} now' for key, (was, now) in changed.items())
        raise UserError(f'{config.out} holds another run:\n{listed}\nchoose another --out, or the same values')
