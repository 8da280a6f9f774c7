"""Checkpoints: the newest ones to continue from, and the best one to keep.

Two managers, since one that keeps the best deletes the newest. Every checkpoint is committed with the checksums of its
files, so that what a disk has changed is found before it is used.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import sync_global_devices

from train.errors import UserError, is_out_of_memory
from train.state import TrainState
from train.together import of_first

Meta = dict[str, Any]

# In the folder of a step: path of each file of its items -> size and CRC-32.
CHECKSUMS = 'checksums.json'
# Beside `last` and `best`: where damaged checkpoints are moved.
DAMAGED = 'damaged'


class Damaged(ValueError):
    """A checkpoint is not what was written; the message says why."""


class Checkpoints:
    """The folder `checkpoints/` of a run, with `last/STEP` and `best/STEP`; each has a state and a JSON `meta`.

    Args:
      folder: absolute, as orbax finds out too late if it is not.
      say: prints a line, about checkpoints that are damaged.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print):
        self.folder = folder
        self._say = say
        # Orbax does this beside its other work, while other hosts look at what is there.
        if jax.process_index() == 0:
            for unfinished in folder.glob('*/*.orbax-checkpoint-tmp*'):
                shutil.rmtree(unfinished)
        sync_global_devices('unfinished checkpoints are removed')
        self._last = _manager(folder / 'last', keep=2)
        self._best = _manager(folder / 'best', keep=1)

    def restore(self, abstract: TrainState) -> tuple[TrainState, Meta] | None:
        """The newest state that is whole and its meta, or None if nothing was saved yet.

        Newer ones that are damaged are moved to `damaged`. If none of `last` is whole, the best one is taken.

        Args:
          abstract: shapes, dtypes and shardings of the state to make.

        Raises:
          UserError: nothing that lies in the folder can be read, or it is of another model.
        """
        steps = sorted(self._last.all_steps(), reverse=True)
        if not steps:
            return None
        damaged: dict[Path, str] = {}
        last, best = ([(manager, step) for step in there] for manager, there in
                      ((self._last, steps), (self._best, self._best.all_steps())))  # fmt: skip
        for manager, step in (*last, *best):
            try:
                found = _restored(manager, step, abstract)
            except Damaged as error:
                damaged[Path(manager.directory, str(step))] = str(error)
                continue
            for path, reason in damaged.items():
                self._set_aside(path, reason, f'the run continues from step {step}')
            return found
        place, reason = next(iter(damaged.items()))
        others = f', and so are the {len(damaged) - 1} others' if len(damaged) > 1 else ''
        raise UserError(
            f'the checkpoint {place} is damaged or not of this run ({reason}){others}: remove {self.folder} to start '
            'over, or choose another --out'
        )

    def best(self) -> Meta | None:
        """Meta of the best checkpoint; None if there is none, or if it was damaged and had to be moved away."""
        step = self._best.latest_step()
        if step is None:
            return None
        try:
            return _restored(self._best, step)[1]
        except Damaged as error:
            self._set_aside(self.folder / 'best' / str(step), str(error), 'the best of what follows takes its place')
            return None

    def _set_aside(self, place: Path, reason: str, then: str) -> None:
        kept = self.folder / DAMAGED / f'{place.parent.name}-{place.name}'
        while kept.exists():
            kept = kept.with_name(f'{kept.name}x')
        sync_global_devices(f'{place} was looked at')
        if jax.process_index() == 0:
            kept.parent.mkdir(exist_ok=True)
            os.rename(place, kept)
        sync_global_devices(f'{place} is moved')
        for manager in (self._last, self._best):
            manager.reload()
        self._say(f'the checkpoint {place} is damaged ({reason}): it is now {kept}, and {then}')

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Saves in the background; the state may be donated as soon as this returns."""
        _save(self._last, state, meta)

    def save_best(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Replaces the best checkpoint, and returns when that is done."""
        _save(self._best, state, meta)
        with _written(self._best):
            self._best.wait_until_finished()

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint."""
        step = self._last.latest_step()
        return None if step is None else self.folder / 'last' / str(step)

    def close(self) -> None:
        """Waits for what is still being written.

        Raises:
          UserError: it could not be written.
        """
        for manager in (self._last, self._best):
            with _written(manager):
                manager.wait_until_finished()
            manager.close()


def steps_in(folder: Path) -> list[int]:
    """The steps that `last` or `best` of a run has a checkpoint of."""
    return sorted(int(path.name) for path in folder.glob('*') if re.fullmatch('[0-9]+', path.name) and path.is_dir())


def read(folder: Path, wanted: Any) -> tuple[Any, Meta]:
    """A part of the newest state in a folder, and its meta; nothing is written, the run may be going on.

    Args:
      folder: absolute: `last` or `best` of a run.
      wanted: some branches of the stored tree: shapes, dtypes and shardings.

    Raises:
      UserError: nothing was saved there yet, or it cannot be read, or is of another model.
    """
    steps = steps_in(folder)
    if not steps:
        raise UserError(f'there is no checkpoint in {folder} yet')
    newest = steps[-1]
    place = folder / str(newest)
    handlers = {'state': ocp.PyTreeCheckpointHandler(), 'meta': ocp.JsonCheckpointHandler()}
    options = ocp.CheckpointManagerOptions(read_only=True)
    how = ocp.checkpoint_utils.construct_restore_args(wanted)
    state = ocp.args.PyTreeRestore(wanted, restore_args=how, partial_restore=True)
    try:
        check(place)
        with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
            stored = manager.item_metadata(newest)['state'].tree
            _check_shapes(place, stored, wanted)
            found = manager.restore(newest, args=ocp.args.Composite(state=state, meta=ocp.args.JsonRestore()))
    except Exception as error:  # orbax and tensorstore raise whatever they met
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise UserError(f'the checkpoint {place} is damaged ({_reason(error)})') from error
    return found['state'], found['meta']


def _restored(manager: ocp.CheckpointManager, step: int, abstract: TrainState | None = None) -> tuple[Any, Meta]:
    """State, if its shapes are given, and meta of one checkpoint.

    Raises:
      Damaged: it is not what was written.
      UserError: it is whole, but of something else.
    """
    place = Path(manager.directory / str(step))
    items = {} if abstract is None else {'state': ocp.args.StandardRestore(abstract)}
    verified = _check_for_all(place)
    try:
        found = manager.restore(step, args=ocp.args.Composite(**items, meta=ocp.args.JsonRestore()))
        if found['meta']['step'] != step:
            raise ValueError(f'it says that it is of step {found["meta"]["step"]}')
    except Exception as error:  # orbax and tensorstore raise whatever they met
        if is_out_of_memory(error):
            raise
        if not verified:
            raise Damaged(_reason(error)) from error
        raise UserError(
            f'the checkpoint {place} is not of this run: choose another --out ({_reason(error)})'
        ) from error
    return found.get('state'), found['meta']


def check(place: Path) -> bool:
    """Whether a checkpoint has checksums, all of which are right.

    Args:
      place: folder of a step.

    Raises:
      Damaged: a file is missing or has other bytes than were written.
    """
    if not (place / CHECKSUMS).exists():
        return False
    try:
        known = json.loads((place / CHECKSUMS).read_text())
        if not known:
            raise ValueError
        wrong = [name for name, expected in known.items() if _checksum(place / name) != expected]
    except OSError as error:
        raise Damaged(f'{error.filename}: {error.strerror}') from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise Damaged(f'{CHECKSUMS} cannot be read') from error
    if wrong:
        raise Damaged(f'{wrong[0]} has other bytes than were written')
    return True


def _check_for_all(place: Path) -> bool:
    """The same by process 0 for all, so that they agree, and read the files once."""
    verified, reason = False, 'process 0 says so'
    if jax.process_index() == 0:
        try:
            verified, reason = check(place), ''
        except Damaged as error:
            reason = str(error)
    if of_first(bool(reason)):
        raise Damaged(reason)
    return bool(of_first(verified))


def _checksum(path: Path) -> list[int]:
    """Size and CRC-32 of a file, a block at a time."""
    size = value = 0
    with path.open('rb') as file:
        while block := file.read(2**20):
            size, value = size + len(block), zlib.crc32(block, value)
    return [size, value]


def _write_checksums(folder: Path) -> None:
    """Of what is about to be committed: orbax calls this when all files are there and the last rename is still to come,
    so that no checkpoint is ever seen without them."""
    if jax.process_index():
        return
    for place in folder.glob('*.orbax-checkpoint-tmp*'):
        files = sorted(path for item in place.iterdir() if item.is_dir() for path in item.rglob('*') if path.is_file())
        known = {str(path.relative_to(place)): _checksum(path) for path in files}
        (place / CHECKSUMS).write_text(json.dumps(known, indent=1))


def _reason(error: Exception) -> str:
    """What orbax or tensorstore said, in one line of bearable length."""
    reason = ' '.join(str(error).split()) or type(error).__name__
    return reason if len(reason) < 200 else reason[:200] + ' ...'


def _check_shapes(place: Path, stored: Any, wanted: Any) -> None:
    """Raises a `UserError` that names the first parameters that a checkpoint has in another shape, or not at all."""
    there, here = (
        {jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
         for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in ({key: stored.get(key, {}) for key in wanted}, wanted)
    )  # fmt: skip
    wrong = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if wrong:
        listed = ', '.join(
            f'{name} is {there.get(name, "missing")} there and {here.get(name, "none")} here' for name in wrong[:3]
        )
        more = f', and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise UserError(f'the checkpoint {place} is of another model than config.json: {listed}{more}')


@contextmanager
def _written(manager: ocp.CheckpointManager) -> Iterator[None]:
    """What goes wrong with a save, perhaps one that was begun earlier, as one clear error."""
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise whatever they met
        raise UserError(
            f'a checkpoint could not be written to {manager.directory}: {_reason(error)}; those before it are '
            f'untouched: make room or mend the folder, and the same command continues'
        ) from error


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    committing = ocp.AsyncOptions(post_finalization_callback=partial(_write_checksums, folder))
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=True,
        async_options=committing,
        # Both managers may be writing at a time: the processes must not meet at a barrier of the other one.
        multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name),
        single_host_load_and_broadcast=True,  # what is there says one for all: shared disks show it at other times
    )
    return ocp.CheckpointManager(folder, options=options)


def _save(manager: ocp.CheckpointManager, state: TrainState, meta: Mapping[str, Any]) -> None:
    step = int(meta['step'])
    if step in manager.all_steps():
        return
    with _written(manager):
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))
