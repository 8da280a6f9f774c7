"""Images in folders, one folder for each class."""

from dataclasses import dataclass
from functools import cached_property

from train.sources.folders import Kind, Listing, find
from train.sources.pictures import ENDINGS, MEAN, STD, Corrupt, Pictures, check_options
from train.sources.source import Source, Split

KIND = Kind(
    'image',
    'images',
    ENDINGS,
    'give --data.path a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or one with CLASS/*.jpg, of which a part is '
    'then held out (.jpeg, .png, .webp and .bmp are read too)',
)


@dataclass(frozen=True)
class ImageFolder(Source):
    """Your own images, of any size: one folder for each class, decoded when they are needed."""

    path: str = 'data/images'
    """Folder with train/CLASS/*.jpg and val/CLASS/*.jpg (or test), or with CLASS/*.jpg. Classes are sorted by name."""
    held_out: float = 0.1
    """Part of each class that is held out where there is no val and no test; which images depends on their names."""
    channels: int = 3
    """What images are turned into: 3 for colours, 1 for grey."""
    corrupt: Corrupt = 'refuse'
    """What an unreadable image does: end the run, or be counted and replaced by the next readable one."""

    @property
    def mean(self) -> tuple[float, ...]:
        return MEAN[self.channels]

    @property
    def std(self) -> tuple[float, ...]:
        return STD[self.channels]

    @property
    def shape(self) -> tuple[int, int, int]:
        return 0, 0, self.channels

    @property
    def classes(self) -> tuple[str, ...]:
        return self._index[0]

    def check(self) -> None:
        check_options(self.held_out, self.channels, self.corrupt)

    def records(self, split: Split) -> Pictures:
        return Pictures(self._index[1][split], len(self.classes), self.path, self.channels, self.corrupt)

    @cached_property
    def _index(self) -> tuple[tuple[str, ...], dict[Split, Listing]]:
        """The classes, and the images of both splits; the folder is looked through once."""
        return find(self.path, self.held_out, KIND)
