"""Fashion-MNIST, arXiv:1708.07747: 60,000 and 10,000 grey images of clothes, 28x28, ten classes."""

from dataclasses import dataclass

from train.sources import idx
from train.sources.source import InMemory, Source, Split

HELP = (
    'on Debian and Ubuntu `apt install dataset-fashion-mnist` puts it into /usr/share/datasets/fashion-mnist (without '
    'root: `apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR`); elsewhere the four '
    'files are at https://github.com/zalandoresearch/fashion-mnist; then give --data.path FOLDER'
)


@dataclass(frozen=True)
class FashionMnist(Source):
    """Fashion-MNIST, from its four IDX files."""

    path: str = '/usr/share/datasets/fashion-mnist'
    """Folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the same with t10k, gzipped or not."""

    mean = (0.2860,)
    std = (0.3530,)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 28, 28, 1

    @property
    def classes(self) -> tuple[str, ...]:
        return ('T-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'ankle boot')

    def records(self, split: Split) -> InMemory:
        return idx.load(self.path, split, HELP, self.shape, len(self.classes))
