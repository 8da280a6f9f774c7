"""Checkpoints: the newest ones to continue from, and the best one to keep.

Two managers, since one that keeps the best deletes the newest.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        self._best.wait_until_finished()

    def preempted(self, step: int) -> bool:
        """Whether the hosts have agreed to stop here; always False for a single host."""
        return self._last.reached_preemption(step)

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint."""
        step = self._last.latest_step()
        return None if step is None else self.folder / 'last' / str(step)

    def close(self) -> None:
        """Waits for what is still being written."""
        for manager in (self._last, self._best):
            manager.wait_until_finished()
            manager.close()


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(folder, options=options)


def _save(manager: ocp.CheckpointManager, state: TrainState, meta: Mapping[str, Any]) -> None:
    step = int(meta['step'])
    if step not in manager.all_steps():
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))
