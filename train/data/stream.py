"""Batches whose content depends on (seed, step) alone.

Position p of the training data is row p % batch_size of step p // batch_size, and each position has
one record and one random generator. Threads, processes and hosts share the positions among them,
so their number changes nothing, and a run that continues simply starts at a later position.
"""

import multiprocessing.resource_tracker
import signal
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import absl.flags
import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from train.config import Loader
from train.data.augment import Augment
from train.sharding import batch_sharding
from train.sources.pictures import Pictures
from train.sources.source import Record

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Steps:
    """Random access to batches: of each, the rows that this host takes."""

    record_at: Callable[[int], Record]
    batch_size: int
    rows: Sequence[int]
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step) -> Batch:
        records = [self.record_at(int(step) * self.batch_size + row) for row in self.rows]
        return {name: np.array([record[name] for record in records]) for name in records[0]}


@dataclass(frozen=True)
class _Trained:
    """Number of a record -> the record as trained on, with what the generator chooses of it."""

    records: Sequence[Record]
    augment: Augment

    def __call__(self, index: int, rng: np.random.Generator) -> Record:
        records = self.records
        record = records.draw(index, rng) if isinstance(records, Pictures) else records[index]
        return self.augment.train(record, rng)


@dataclass(frozen=True)
class _Evaluated:
    """Position -> record as evaluated.

    Positions past the end repeat the data with weight 0, which a record that stands in for another one has, too.
    """

    records: Sequence[Record]
    augment: Augment

    def __call__(self, position: int) -> Record:
        record = self.augment.evaluate(self.records[position % len(self.records)])
        counts = position < len(self.records) and not record.get('skipped', 0)
        return {**record, 'weight': np.float32(counts)}


def train_batches(
    records: Sequence[Record],
    augment: Augment,
    *,
    seed: int,
    batch_size: int,
    steps: int,
    start: int = 0,
    rows: Sequence[int] | None = None,
    loader: Loader,
) -> Generator[Batch, None, None]:
    """Batches of steps `start` to `steps`: every epoch is a new permutation of the records.

    Args:
      records: of the training split.
      augment: what happens to each.
      seed: decides order and augmentation.
      batch_size: rows of a batch, over all hosts; may be more than there are records.
      steps: where the stream ends.
      start: the first step.
      rows: the rows of each batch that this host takes; all if None.
      loader: threads and processes.

    Yields:
      `image [rows h w c]` or `[rows t h w c]`, `label [rows]`, and `skipped [rows]` if unreadable images are, see
      `Pictures`.

    Raises:
      UserError: a record cannot be read.
    """
    records = _no_larger_than_needed(records, augment.least(training=True))
    stream = grain.MapDataset.source(range(len(records))).seed(seed).shuffle().repeat()
    stream = stream.random_map(_Trained(records, augment))
    return _batches(stream.__getitem__, batch_size, rows, start, steps, loader)


def val_batches(
    records: Sequence[Record], augment: Augment, *, batch_size: int, rows: Sequence[int] | None = None, loader: Loader
) -> Generator[Batch, None, None]:
    """The held-out data once, in order; `weight [rows]` is 0 where the last batch is filled up."""
    records = _no_larger_than_needed(records, augment.least(training=False))
    steps = -(-len(records) // batch_size)
    # Threads only: starting processes would take longer than most held-out sets.
    loader = Loader(threads=loader.threads, workers=0, prefetch=loader.prefetch)
    return _batches(_Evaluated(records, augment), batch_size, rows, 0, steps, loader)


def _no_larger_than_needed(records: Sequence[Record], least: int) -> Sequence[Record]:
    return records.needing(least) if isinstance(records, Pictures) else records


def _batches(
    record_at, batch_size: int, rows: Sequence[int] | None, start: int, steps: int, loader: Loader
) -> Generator[Batch, None, None]:
    rows = range(batch_size) if rows is None else rows
    mine = grain.MapDataset.source(_Steps(record_at, batch_size, rows, steps))[start:]
    read = grain.ReadOptions(num_threads=loader.threads, prefetch_buffer_size=loader.prefetch if loader.threads else 0)
    batches = mine.to_iter_dataset(read)
    if loader.workers:
        # Grain asks absl's flags, which only an absl program parses.
        absl.flags.FLAGS.mark_as_parsed()
        ahead = -(-loader.prefetch // loader.workers)
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(loader.workers, per_worker_buffer_size=ahead))
    iterator = iter(batches)
    try:
        # The processes start with the first batch.
        with _deaf_children() if loader.workers else nullcontext():
            first = next(iterator, None)
        if first is not None:
            yield first
            yield from iterator
    finally:  # threads and processes end
        iterator.close()


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that are started now hear no signals, which a terminal sends to all: they end when this one does."""
    # What this starts unblocks these signals.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def host_rows(mesh: jax.sharding.Mesh, batch_size: int) -> list[int]:
    """The rows of a batch that live on this host's devices, in order. They need not be contiguous: the order of a mesh
    follows the wires, and the devices of a host are a rectangle in it."""
    return rows_at(batch_sharding(mesh, 1).addressable_devices_indices_map((batch_size,)).values(), batch_size)


def rows_at(indices: Iterable[tuple[slice, ...] | None], batch_size: int) -> list[int]:
    """The rows that any of the indices of an array `[batch_size]` has."""
    return sorted({row for index in indices if index for row in range(*index[0].indices(batch_size))})


def place(batch: Batch, mesh: jax.sharding.Mesh, batch_size: int) -> dict[str, jax.Array]:
    """This host's rows -> the batch over all devices."""
    own = host_rows(mesh, batch_size)
    return {name: _placed(rows, own, batch_sharding(mesh, rows.ndim), batch_size) for name, rows in batch.items()}


def _placed(rows: np.ndarray, own: list[int], sharding: NamedSharding, batch_size: int) -> jax.Array:
    """Args: rows: `[own ...]`, of the batch's; own: their indices."""

    def shard(index: Any) -> np.ndarray:
        first, last, _ = index[0].indices(batch_size)
        start = bisect_left(own, first)
        return rows[(slice(start, start + last - first), *index[1:])]

    return jax.make_array_from_callback((batch_size, *rows.shape[1:]), sharding, shard)
