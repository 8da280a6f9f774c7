"""Checkpoints: the newest ones to continue from, and the best one to keep.

Two managers, since one that keeps the best deletes the newest.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from train.errors import UserError
from train.state import TrainState

Meta = dict[str, Any]


class Checkpoints:
    """The folder `checkpoints/` of a run, with `last/STEP` and `best/STEP`; each has a state and a JSON `meta`.

    Args:
      folder: absolute, as orbax finds out too late if it is not.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._last = _manager(folder / 'last', keep=2)
        self._best = _manager(folder / 'best', keep=1)

    def restore(self, abstract: TrainState) -> tuple[TrainState, Meta] | None:
        """The newest state and its meta, or None if nothing was saved yet.

        Args:
          abstract: shapes, dtypes and shardings of the state to make.

        Raises:
          UserError: what lies in the folder cannot be read or is of another model.
        """
        step = self._last.latest_step()
        if step is None:
            return None
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
        try:
            restored = self._last.restore(step, args=args)
        except Exception as error:  # orbax and tensorstore raise whatever they met
            reason = ' '.join(str(error).split()) or type(error).__name__
            reason = reason if len(reason) < 200 else reason[:200] + ' ...'
            older = [s for s in self._last.all_steps() if s != step]
            instead = f'continue from step {max(older)}' if older else 'start over'
            raise UserError(
                f'the checkpoint {self.folder / "last" / str(step)} is damaged or not of this run: '
                f'remove that folder to {instead}, or choose another --out ({reason})'
            ) from error
        return restored['state'], restored['meta']

    def best(self) -> Meta | None:
        """Meta of the best checkpoint."""
        step = self._best.latest_step()
        if step is None:
            return None
        return self._best.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Saves in the background; the state may be donated as soon as this returns."""
        _save(self._last, state, meta)

    def save_best(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Replaces the best checkpoint, and returns when that is done."""
        _save(self._best, state, meta)
        with _written(self._best):
            self._best.wait_until_finished()

    def preempted(self, step: int) -> bool:
        """Whether the hosts have agreed to stop here; always False for a single host."""
        return self._last.reached_preemption(step)

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
    return sorted(int(path.name) for path in folder.glob('*') if path.name.isdigit())


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
        with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
            stored = manager.item_metadata(newest)['state'].tree
            _check_shapes(place, stored, wanted)
            found = manager.restore(newest, args=ocp.args.Composite(state=state, meta=ocp.args.JsonRestore()))
    except UserError:
        raise
    except Exception as error:  # orbax and tensorstore raise whatever they met
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise UserError(f'the checkpoint {place} is damaged ({reason})') from error
    return found['state'], found['meta']


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
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f'a checkpoint could not be written to {manager.directory}: {reason}; those before it are untouched: '
            f'make room or mend the folder, and the same command continues'
        ) from error


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(folder, options=options)


def _save(manager: ocp.CheckpointManager, state: TrainState, meta: Mapping[str, Any]) -> None:
    step = int(meta['step'])
    if step in manager.all_steps():
        return
    with _written(manager):
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))
