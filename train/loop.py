"""A run from its first step to its last: the only imperative file."""

import json
import math
import time
from pathlib import Path

import jax
from jax.experimental.multihost_utils import sync_global_devices

from train.checkpoints import Checkpoints
from train.config import Config
from train.data.stream import host_rows, place, train_batches, val_batches
from train.errors import Diverged
from train.folder import SUMMARY, open_folder
from train.log import Metrics, Row, Terminal, describe
from train.optim import schedule
from train.report import Result, report
from train.setup import Setup, set_up
from train.state import TrainState
from train.step import Metrics as Numbers
from train.stop import Stop


def run(config: Config) -> None:
    """Trains, or continues, or says that there is nothing left to do.

    Raises:
      UserError: something in the config or in the folder of the run cannot be.
      Diverged: the loss is no longer finite.
    """
    began = time.monotonic()

    # ------------------------------------------------------------------ what is trained, and where
    setup = set_up(config)
    main_host = jax.process_index() == 0
    folder = open_folder(config) if main_host else Path(config.out).absolute()
    sync_global_devices('the folder is open')
    terminal = Terminal(config.steps, quiet=not main_host)
    if (folder / SUMMARY).exists():
        done = json.loads((folder / SUMMARY).read_text())
        terminal.say(f'finished already: {describe(done)}, everything is in {folder}')
        return

    # ------------------------------------------------------------------ the state, new or continued
    checkpoints = Checkpoints(folder / 'checkpoints')
    restored = checkpoints.restore(setup.state)
    state, meta = restored or (setup.initial(), {'step': 0, 'seconds': 0.0, 'val': {}})
    step, val, seconds_before = meta['step'], meta['val'], meta['seconds']
    best = checkpoints.best()
    terminal.say(_title(config, setup, folder))
    if step:
        terminal.say(f'continuing after step {step}')

    # ------------------------------------------------------------------ the steps
    rows = host_rows(setup.mesh, config.batch_size)
    batches = train_batches(
        config.data,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps,
        start=step,
        rows=rows,
        loader=config.loader,
    )
    learning_rate = schedule(config.optim, config.steps)
    metrics = Metrics(folder, after=step, write=main_host)
    clock = _Clock(config.batch_size)
    unseen: tuple[int, Numbers] | None = None
    terminal.start(step)
    try:
        with Stop() as stop:
            for batch in batches:
                state, numbers = setup.train_step(state, place(batch, setup.mesh, config.batch_size))
                step += 1
                # The numbers of a step are looked at while the device is busy with the next one.
                if unseen is not None:
                    _finite(*unseen)
                unseen = step, numbers
                clock.tick(numbers)
                terminal.at(step)

                log, look, save = (
                    step % every == 0 or step == config.steps
                    for every in (config.log_every, config.eval_every, config.save_every)
                )
                stopping = stop.requested or checkpoints.preempted(step)
                if not (log or look or save or stopping):
                    continue

                seen = _finite(step, numbers)
                row: Row = {}
                if log:
                    row = {**seen, 'learning_rate': float(learning_rate(step - 1)), **clock.images_per_second()}
                if look:
                    val = _evaluate(config, setup, state, rows)
                    row |= val
                if row:
                    row = {'step': step, **row}
                    metrics.write(row)
                    terminal.update(row)

                # Rows are in the file and the best checkpoint in its folder before the newest
                # checkpoint says that this step needs no repeating.
                if look or save or stopping:
                    seconds = seconds_before + time.monotonic() - began
                    meta = {'step': step, 'seconds': seconds, 'val': val}
                    if look and _is_better(config, val, best):
                        best = meta
                        checkpoints.save_best(state, meta)
                    if save or stopping:
                        checkpoints.save(state, meta)
                    clock.restart()
                if stopping:
                    break
    except Diverged as error:
        checkpoints.close()
        kept = checkpoints.newest()
        where = f'the last good checkpoint is {kept}' if kept else 'nothing was saved before'
        raise Diverged(f'{error}; {where}: try a lower optim.learning_rate in another --out') from error
    finally:
        terminal.stop()
        checkpoints.close()
        metrics.close()

    # ------------------------------------------------------------------ the end
    if step < config.steps:
        terminal.say(f'stopped after step {step} of {config.steps}: the same command continues from there')
        return
    variables = jax.device_get(setup.gather(state.evaluated))
    if main_host:
        seconds = seconds_before + time.monotonic() - began
        report(config, setup, variables, Result(folder, meta, best, seconds), terminal)


def _title(config: Config, setup: Setup, folder: Path) -> str:
    devices = f'{jax.device_count()} {jax.default_backend()} device{"s" if jax.device_count() > 1 else ""}'
    return (
        f'{config.model.name} with {setup.parameters:,} parameters, {config.steps:,} steps of {config.batch_size} '
        f'images on {devices}, in {folder}'
    )


def _evaluate(config: Config, setup: Setup, state: TrainState, rows: range) -> Row:
    """The metrics over all held-out data."""
    totals: dict[str, float] = {}
    count = 0.0
    for batch in val_batches(config.data, batch_size=config.batch_size, rows=rows, loader=config.loader):
        sums, weight = jax.device_get(setup.eval_step(state, place(batch, setup.mesh, config.batch_size)))
        totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
        count += float(weight)
    return {f'val/{name}': total / count for name, total in totals.items()}


def _finite(step: int, numbers: Numbers) -> Row:
    """Waits for the numbers of a step; raises `Diverged` if the step was the end of the road."""
    row = {f'train/{name}': float(value) for name, value in jax.device_get(numbers).items()}
    if not math.isfinite(row['train/loss'] + row['train/grad_norm']):
        raise Diverged(
            f'at step {step} the loss is {row["train/loss"]} and the norm of its gradient {row["train/grad_norm"]}'
        )
    return row


def _is_better(config: Config, val: Row, best: dict | None) -> bool:
    """Strictly: a repeated stretch after a restart must not replace its own best."""
    name = f'val/{config.objective.watch}'
    sign = 1 if config.objective.best == 'max' else -1
    return best is None or sign * val[name] > sign * best['val'][name]


class _Clock:
    """Images per second since the last row; compiling, evaluating and saving do not count."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._since, self._steps, self._warm = 0.0, 0, False

    def tick(self, numbers: Numbers) -> None:
        """After each step."""
        if self._warm:
            self._steps += 1
        else:
            jax.block_until_ready(numbers)
            self._warm = True
            self.restart()

    def restart(self) -> None:
        self._since, self._steps = time.monotonic(), 0

    def images_per_second(self) -> Row:
        """Empty if there was no whole step to measure."""
        steps, seconds = self._steps, time.monotonic() - self._since
        self.restart()
        return {'images_per_second': round(steps * self._batch_size / seconds, 1)} if steps else {}
