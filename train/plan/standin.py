"""Data that are not there: enough of them to build, compile and measure a step."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from train.config import Config
from train.errors import UserError
from train.model import options
from train.sources.pictures import MEAN, STD
from train.sources.source import Record, Source, Split

# Of data that are not there, where the model has no number of its own.
CLASSES = 1000


@dataclass(frozen=True)
class StandIn(Source):
    """A description in the place of a data set.

    Attributes:
      of: the data set that is not there.
      number_of_classes: of the labels.
    """

    of: Source
    number_of_classes: int

    @property
    def mean(self) -> tuple[float, ...]:
        return MEAN.get(self.shape[-1], (0.5,))

    @property
    def std(self) -> tuple[float, ...]:
        return STD.get(self.shape[-1], (0.5,))

    @property
    def shape(self) -> tuple[int, ...]:
        try:
            return self.of.shape
        except UserError:
            return 0, 0, 3

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.number_of_classes)))

    def records(self, split: Split) -> Sequence[Record]:
        return self.of.records(split)  # which says why there are none


def described(config: Config) -> tuple[Config, str]:
    """The config, with a stand-in for data that have to be there to be described; and why, '' if they need not be.

    Raises:
      UserError: nothing says of which size the images would be.
    """
    source = config.data
    try:
        _ = source.shape, source.classes, source.mean, source.std
        return config, ''
    except UserError as error:
        known = options(config.model.name).get('num_classes')
        number = config.model.args.get('num_classes', known.default if known else None)
        number = number if isinstance(number, int) and number > 0 else CLASSES
        stand_in = StandIn(source, number)
        config.augment.shape(stand_in)
        return dataclasses.replace(config, data=stand_in), f'without the data, for {number:,} classes: {error}'
