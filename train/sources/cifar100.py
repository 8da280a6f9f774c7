"""CIFAR-100 (Krizhevsky 2009): 50,000 and 10,000 photographs of 32x32 pixels, a hundred classes in twenty groups."""

from dataclasses import dataclass

from train.sources import cifar
from train.sources.source import InMemory, Source, Split, check_labels, existing

HELP = 'the python version is at https://www.cs.toronto.edu/~kriz/cifar.html; then give --data.path FOLDER'

FINE = (
    'apple', 'aquarium fish', 'baby', 'bear', 'beaver', 'bed', 'bee', 'beetle', 'bicycle', 'bottle', 'bowl', 'boy',
    'bridge', 'bus', 'butterfly', 'camel', 'can', 'castle', 'caterpillar', 'cattle', 'chair', 'chimpanzee', 'clock',
    'cloud', 'cockroach', 'couch', 'crab', 'crocodile', 'cup', 'dinosaur', 'dolphin', 'elephant', 'flatfish', 'forest',
    'fox', 'girl', 'hamster', 'house', 'kangaroo', 'keyboard', 'lamp', 'lawn mower', 'leopard', 'lion', 'lizard',
    'lobster', 'man', 'maple tree', 'motorcycle', 'mountain', 'mouse', 'mushroom', 'oak tree', 'orange', 'orchid',
    'otter', 'palm tree', 'pear', 'pickup truck', 'pine tree', 'plain', 'plate', 'poppy', 'porcupine', 'possum',
    'rabbit', 'raccoon', 'ray', 'road', 'rocket', 'rose', 'sea', 'seal', 'shark', 'shrew', 'skunk', 'skyscraper',
    'snail', 'snake', 'spider', 'squirrel', 'streetcar', 'sunflower', 'sweet pepper', 'table', 'tank', 'telephone',
    'television', 'tiger', 'tractor', 'train', 'trout', 'tulip', 'turtle', 'wardrobe', 'whale', 'willow tree', 'wolf',
    'woman', 'worm',
)  # fmt: skip
COARSE = (
    'aquatic mammals', 'fish', 'flowers', 'food containers', 'fruit and vegetables', 'household electrical devices',
    'household furniture', 'insects', 'large carnivores', 'large man-made outdoor things',
    'large natural outdoor scenes', 'large omnivores and herbivores', 'medium-sized mammals',
    'non-insect invertebrates', 'people', 'reptiles', 'small mammals', 'trees', 'vehicles 1', 'vehicles 2',
)  # fmt: skip


@dataclass(frozen=True)
class Cifar100(Source):
    """CIFAR-100, from its Python batches or its batches for C."""

    path: str = 'data/cifar-100-python'
    """Folder with train and test, or train.bin and test.bin."""
    coarse: bool = False
    """Tell the twenty groups apart instead of the hundred classes."""

    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 32, 32, 3

    @property
    def classes(self) -> tuple[str, ...]:
        return COARSE if self.coarse else FINE

    def records(self, split: Split) -> InMemory:
        root = existing(self.path, HELP)
        files, ending = cifar.find(root, ['train' if split == 'train' else 'test'], ('', '.bin'), HELP)
        if ending == '.bin':
            records = cifar.binary_batches(files, label_bytes=2, which=0 if self.coarse else 1)
        else:
            records = cifar.python_batches(files, 'coarse_labels' if self.coarse else 'fine_labels')
        return InMemory(records.images, check_labels(records.labels, len(self.classes), root))
