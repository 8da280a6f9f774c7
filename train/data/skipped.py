"""Which images could not be read and had others stand in for them."""

from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from train.data.stream import Batch
from train.sources.pictures import Pictures
from train.sources.source import Record


class Skipped:
    """Counts the unreadable images of one split, each once.

    Args:
      records: of the split.
      say: prints a line, about the first of them.
      known: indices of those that earlier sessions met.
    """

    def __init__(self, records: Sequence[Record], say: Callable[[str], None], known: Iterable[int] = ()):
        self._records, self._say, self._found = records, say, set(known)

    def taken_out(self, batch: Batch) -> Batch:
        """The batch without what it says about them."""
        skipped = batch.get('skipped')
        if skipped is None or not isinstance(self._records, Pictures):
            return batch
        new = {int(index) - 1 for index in skipped if index} - self._found
        if new and not self._found:
            first = min(new)
            self._say(
                f'{self._records.name(first)} cannot be read ({self._records.why(first)}) and is passed over: the next '
                'one takes its place. Others are only counted, in summary.json'
            )
        self._found |= new
        return {name: rows for name, rows in batch.items() if name != 'skipped'}

    def found(self) -> list[int]:
        """Indices of all that were met until now, by any host; every host must ask."""
        if not isinstance(self._records, Pictures) or self._records.corrupt != 'skip':
            return []
        met = np.zeros((1, len(self._records)), bool)
        met[0, list(self._found)] = True
        if jax.process_count() > 1:
            met = process_allgather(met[0])
        return [int(index) for index in np.flatnonzero(met.any(axis=0))]
