"""A run from its first step to its last: the only imperative file."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
from jax.experimental.multihost_utils import sync_global_devices

from train.catalogue import name_of
from train.checkpoints import Checkpoints, steps_in
from train.clock import Clock
from train.config import Config
from train.data.skipped import Skipped
from train.data.stream import host_rows, place, train_batches, val_batches
from train.errors import Diverged, UserError, is_out_of_memory
from train.flops import model_flops, peak_flops
from train.folder import check_shared, locked, open_folder, read_summary
from train.init import Inherited, begin, inherit
from train.log import Metrics, Row, Terminal, describe
from train.optim import schedule
from train.probes import Features, chosen, probe
from train.report import Result, report
from train.setup import Setup, set_up
from train.sharding import platform_of
from train.sources.source import Record, Split
from train.state import TrainState
from train.step import Metrics as Numbers
from train.stop import Stop
from train.together import Agreement, check_same, of_first
from train.trace import Trace

SPLITS: tuple[Split, ...] = ('train', 'val')

# No network that learns has parameters beyond this; one that has diverged can have them and a finite loss, since norms
# divide them out.
LARGEST = 1e4


def run(config: Config) -> None:
    """Trains, or continues, or says that there is nothing left to do.

    Raises:
      UserError: something in the config or in the folder of the run cannot be.
      Diverged: the loss is no longer finite.
    """
    began = time.monotonic()
    setup = set_up(config)
    # Before the folder is made, so that what cannot begin leaves nothing behind.
    new = of_first(not steps_in(Path(config.out, 'checkpoints', 'last')))
    inherited = inherit(config, setup) if config.init and new else None
    finished = of_first(read_summary(Path(config.out)) is not None)
    data = {} if finished else {split: config.data.records(split) for split in SPLITS}
    for split, records in data.items():  # with another number of batches a host would wait for the others for ever
        check_same(f'{split} data of {name_of(config.data)}', len(records), 'images')
    main_host = jax.process_index() == 0
    folder = open_folder(config) if main_host else Path(config.out).absolute()
    sync_global_devices('the folder is open')
    terminal = Terminal(config.steps, quiet=not main_host)
    if finished:
        terminal.say(f'finished already: {describe(read_summary(folder) or {})}, everything is in {folder}')
        return
    try:
        with locked(folder) if main_host else nullcontext():
            check_shared(folder)
            _run(config, setup, data, inherited, folder, terminal, began)
    except OSError as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f'{error.filename or folder}: {error.strerror or error}; what was saved before is untouched: '
            'make room or mend the folder, and the same command continues'
        ) from error


def _run(
    config: Config,
    setup: Setup,
    data: Mapping[Split, Sequence[Record]],
    inherited: Inherited | None,
    folder: Path,
    terminal: Terminal,
    began: float,
) -> None:
    main_host = jax.process_index() == 0

    # ------------------------------------------------------------------ the state, new or continued
    checkpoints = Checkpoints(folder / 'checkpoints', terminal.say)
    restored = checkpoints.restore(setup.state)
    state, meta = restored or (setup.initial(), {'step': 0, 'seconds': 0.0, 'val': {}})
    if inherited is not None:
        state = begin(config, setup, state, inherited)
    step, val, seconds_before = meta['step'], meta['val'], meta['seconds']
    best = checkpoints.best()
    if best is None and step and (step % config.eval_every == 0 or step == config.steps):
        # It was damaged or removed. Whether this one is as good nobody knows, but it is one.
        best = meta
        checkpoints.save_best(state, meta)
    terminal.say(_title(config, setup, folder))
    for line in setup.fallbacks:
        terminal.say(line)
    if step:
        terminal.say(f'continuing after step {step}')
    for line in inherited.lines if inherited else ():
        terminal.say(line)

    # ------------------------------------------------------------------ the steps
    rows = host_rows(setup.mesh, config.batch_size)
    training, held_out = data['train'], data['val']
    skipped = Skipped(training, terminal.say, meta.get('skipped', ()))
    skipped_val = Skipped(held_out, terminal.say)
    batches = train_batches(
        training,
        config.augment,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps,
        start=step,
        rows=rows,
        loader=config.loader,
    )
    learning_rate = schedule(config.optim, config.steps)
    metrics = Metrics(folder, after=step, write=main_host)
    peak = peak_flops(setup.mesh, config.model.dtype)
    fastest = None if peak is None else peak / model_flops(config)
    clock = Clock(config.batch_size, config.loader, terminal.say, fastest)
    trace = Trace(folder, config.profile, terminal.say)
    any_stops = Agreement(setup.mesh)
    unseen: tuple[int, Numbers] | None = None
    warned = False
    terminal.start(step)
    try:
        with Stop() as stop:
            for batch in clock.batches(batches):
                batch = skipped.taken_out(batch)
                placed = place(batch, setup.mesh, config.batch_size)
                with jax.profiler.StepTraceAnnotation('train', step_num=step + 1):
                    state, numbers = setup.train_step(state, {**placed, **setup.given})
                step += 1
                # The metrics of a step are read while the device is busy with the next one.
                if unseen is not None:
                    with clock.waiting():
                        _finite(*unseen)
                unseen = step, numbers
                clock.tick(numbers)
                trace.tick(numbers)
                terminal.at(step)

                log, look, save = (
                    step % every == 0 or step == config.steps
                    for every in (config.log_every, config.eval_every, config.save_every)
                )
                stopping = any_stops(stop.requested)
                if not (log or look or save or stopping):
                    continue

                with clock.waiting():
                    seen = _finite(step, numbers)
                row: Row = {}
                if log:
                    row = {**seen, 'learning_rate': float(learning_rate(step - 1)), **clock.row()}
                if look:
                    val = evaluate(config, setup, state, held_out, rows, skipped_val)
                    if not math.isfinite(val['val/loss']):
                        raise Diverged(f'after step {step} the held-out loss is {val["val/loss"]}')
                    if config.objective.probed:
                        known = features(config, setup, state, training, rows, skipped)
                        asked = features(config, setup, state, held_out, rows, skipped_val)
                        val |= probed(config, known, asked)
                    row |= val
                # Before the row is written: of a step that was the end of the road nothing is kept.
                if look or save or stopping:
                    check_sound(setup, state, placed, rows, config.batch_size, step, looked=look)
                if row:
                    row = {'step': step, **row}
                    metrics.write(row)
                    terminal.update(row)
                    warning = config.objective.warning(row)
                    if warning and not warned:
                        terminal.say(warning)
                    warned = warned or bool(warning)

                # Rows are in the file and the best checkpoint in its folder before the newest
                # checkpoint says that this step needs no repeating.
                if look or save or stopping:
                    seconds = seconds_before + time.monotonic() - began
                    meta = {'step': step, 'seconds': seconds, 'val': val, 'skipped': skipped.found()}
                    if look and is_better(config, val, best):
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
        batches.close()
        terminal.stop()
        trace.close()
        checkpoints.close()
        metrics.close()

    # ------------------------------------------------------------------ the end
    if step < config.steps:
        terminal.say(f'stopped after step {step} of {config.steps}: the same command continues from there')
        return
    variables = setup.gather(state.evaluated)
    unreadable = len(skipped.found()), len(skipped_val.found())
    if main_host:
        seconds = seconds_before + time.monotonic() - began
        report(config, setup, variables, held_out, Result(folder, meta, best, seconds, unreadable), terminal)


def _title(config: Config, setup: Setup, folder: Path) -> str:
    devices = f'{setup.mesh.size} {platform_of(setup.mesh)} device{"s" if setup.mesh.size > 1 else ""}'
    return (
        f'{config.model.name} with {setup.parameters:,} parameters, {config.steps:,} steps of {config.batch_size} '
        f'images on {devices}, in {folder}'
    )


def evaluate(
    config: Config, setup: Setup, state: TrainState, held_out: Sequence[Record], rows: Sequence[int], skipped: Skipped
) -> Row:
    """The metrics over all held-out data that can be read."""
    totals: dict[str, float] = {}
    count = 0.0
    batches = val_batches(held_out, config.augment, batch_size=config.batch_size, rows=rows, loader=config.loader)
    for batch in batches:
        batch = skipped.taken_out(batch)
        sums, weight = jax.device_get(setup.eval_step(state, place(batch, setup.mesh, config.batch_size)))
        totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
        count += float(weight)
    return {f'val/{name}': total / count for name, total in totals.items()}


def features(
    config: Config, setup: Setup, state: TrainState, records: Sequence[Record], rows: Sequence[int], skipped: Skipped
) -> Features:
    """The network's features of as many images of a split as are probed."""
    few, size = chosen(records, config.objective.probed), config.batch_size
    parts = []
    for batch in val_batches(few, config.augment, batch_size=size, rows=rows, loader=config.loader):
        batch = skipped.taken_out(batch)
        found, labels, weights = jax.device_get(setup.features(state, place(batch, setup.mesh, size)))
        parts.append((found[weights > 0], labels[weights > 0]))
    return Features(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def probed(config: Config, known: Features, asked: Features) -> Row:
    """What the features know of the labels."""
    return {f'val/{name}': value for name, value in probe(known, asked, len(config.data.classes)).items()}


def _finite(step: int, numbers: Numbers) -> Row:
    """Waits for the numbers of a step; raises `Diverged` if the step was the end of the road."""
    row = {f'train/{name}': float(value) for name, value in jax.device_get(numbers).items()}
    if not math.isfinite(row['train/loss'] + row['train/grad_norm']):
        raise Diverged(
            f'at step {step} the loss is {row["train/loss"]} and the norm of its gradient {row["train/grad_norm"]}'
        )
    return row


def check_sound(
    setup: Setup,
    state: TrainState,
    batch: Mapping[str, jax.Array],
    rows: Sequence[int],
    size: int,
    step: int,
    looked: bool,
) -> None:
    """Whether a state may be saved. The loss of a step is that of the parameters before it, and tells nothing of those
    that the step has made.

    Args:
      setup: of the run.
      state: after the step.
      batch: of the step.
      rows: of the batch that are this host's, of `size`.
      step: its number.
      looked: the held-out data were evaluated, so that what is evaluated has been seen to work.

    Raises:
      Diverged: numbers that are not finite or out of all proportion, or a loss that is not finite.
    """
    finite, largest = jax.device_get(setup.sound(state))
    if not finite:
        raise Diverged(f'step {step} has made parameters or moments that are not finite')
    if largest > LARGEST:
        raise Diverged(f'step {step} has made parameters as large as {largest:.1e}')
    weighed = {**batch, **place({'weight': np.ones(len(rows), np.float32)}, setup.mesh, size)}
    averaged = state.ema is not None
    states = [*([] if looked else [state]), *([state.replace(ema=state.params)] if averaged else [])]
    for seen in states:
        sums, count = jax.device_get(setup.eval_step(seen, weighed))
        if not math.isfinite(sums['loss']):
            raise Diverged(f'the parameters after step {step} have a loss of {sums["loss"] / count}')


def is_better(config: Config, val: Row, best: dict | None) -> bool:
    """Whether a look is the best so far; of equal accuracies that of the lower loss is.

    Strictly: a repeated stretch after a restart must not replace its own best.
    """
    if best is None:
        return True
    sign = 1 if config.objective.best == 'max' else -1
    now, then = (
        (sign * numbers[f'val/{config.objective.watch}'], -numbers['val/loss']) for numbers in (val, best['val'])
    )
    return now > then
