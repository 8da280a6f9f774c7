"""What a data set must offer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Record = dict[str, Any]
Split = Literal['train', 'val']


@dataclass(frozen=True)
class Source:
    """A data set: its fields are its options. Everything here runs on the host, on numpy arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image as the model sees it, `(h, w, c)`."""
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises a `UserError` if an option makes no sense."""

    def records(self, split: Split) -> Sequence[Record]:
        """The raw records, with random access: decoding belongs into the two methods below."""
        raise NotImplementedError

    def prepare(self, record: Record) -> Record:
        """A raw record as the model evaluates it: `image` float32 `[h w c]`, `label` int32."""
        raise NotImplementedError

    def augment(self, record: Record, rng: np.random.Generator) -> Record:
        """A raw record as the model is trained on it, of the same shapes as `prepare` gives."""
        del rng
        return self.prepare(record)
