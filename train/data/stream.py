"""Batches whose content depends on (seed, step) alone.

Position p of the training data is row p % batch_size of step p // batch_size, and each position has
one record and one random generator. Threads, processes and hosts share the positions among them,
so their number changes nothing, and a run that continues simply starts at a later position.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import absl.flags
import grain
import jax
import numpy as np

from train.config import Loader
from train.data.source import Record, Source
from train.sharding import batch_sharding

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class _HostRows:
    """Random access to the rows that this host takes of every batch."""

    record_at: Callable[[int], Record]
    batch_size: int
    rows: range
    steps: int

    def __len__(self) -> int:
        return self.steps * len(self.rows)

    def __getitem__(self, index) -> Record:
        step, row = divmod(int(index), len(self.rows))
        return self.record_at(step * self.batch_size + self.rows[row])


@dataclass(frozen=True)
class _Evaluated:
    """Position -> prepared record; positions past the end repeat the data with weight 0."""

    source: Source
    records: Sequence[Record]

    def __call__(self, position: int) -> Record:
        record = self.source.prepare(self.records[position % len(self.records)])
        return {**record, 'weight': np.float32(position < len(self.records))}


def train_batches(
    source: Source, *, seed: int, batch_size: int, steps: int, start: int = 0, rows: range | None = None, loader: Loader
) -> Iterator[Batch]:
    """Batches of steps `start` to `steps`: every epoch is a new permutation of the records.

    Args:
      source: the data set.
      seed: decides order and augmentation.
      batch_size: rows of a batch, over all hosts.
      steps: where the stream ends.
      start: the first step.
      rows: the rows of each batch that this host takes; all if None.
      loader: threads and processes.

    Yields:
      `image [rows h w c]`, `label [rows]`.
    """
    records = grain.MapDataset.source(source.records('train')).seed(seed)
    stream = records.shuffle().repeat().random_map(source.augment)
    return _batches(stream.__getitem__, batch_size, rows, start, steps, loader)


def val_batches(source: Source, *, batch_size: int, rows: range | None = None, loader: Loader) -> Iterator[Batch]:
    """The held-out data once, in order; `weight [rows]` is 0 where the last batch is filled up."""
    records = source.records('val')
    steps = -(-len(records) // batch_size)
    # Threads only: starting processes would take longer than most held-out sets.
    loader = Loader(threads=loader.threads, workers=0, prefetch=loader.prefetch)
    return _batches(_Evaluated(source, records), batch_size, rows, 0, steps, loader)


def _batches(record_at, batch_size: int, rows: range | None, start: int, steps: int, loader: Loader) -> Iterator[Batch]:
    rows = range(batch_size) if rows is None else rows
    mine = grain.MapDataset.source(_HostRows(record_at, batch_size, rows, steps)).batch(len(rows))[start:]
    read = grain.ReadOptions(num_threads=loader.threads, prefetch_buffer_size=loader.prefetch if loader.threads else 0)
    batches = mine.to_iter_dataset(read)
    if loader.workers:
        # Grain asks absl's flags, which only an absl program parses.
        absl.flags.FLAGS.mark_as_parsed()
        ahead = -(-loader.prefetch // loader.workers)
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(loader.workers, per_worker_buffer_size=ahead))
    return iter(batches)


def host_rows(mesh: jax.sharding.Mesh, batch_size: int) -> range:
    """The contiguous rows of a batch that live on this host's devices."""
    places = batch_sharding(mesh, 1).addressable_devices_indices_map((batch_size,)).values()
    rows = [place[0] for place in places if place is not None]
    return range(min(r.start or 0 for r in rows), max(batch_size if r.stop is None else r.stop for r in rows))


def place(batch: Batch, mesh: jax.sharding.Mesh, batch_size: int) -> dict[str, jax.Array]:
    """This host's rows -> the batch over all devices."""
    return {
        name: jax.make_array_from_process_local_data(
            batch_sharding(mesh, rows.ndim), rows, (batch_size, *rows.shape[1:])
        )
        for name, rows in batch.items()
    }
