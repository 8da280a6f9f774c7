"""Videos in folders, one folder for each class."""

from dataclasses import dataclass
from functools import cached_property

from train.errors import UserError
from train.sources.clips import ENDINGS, Clips, pyav
from train.sources.folders import Kind, Listing, find
from train.sources.pictures import MEAN, STD, Corrupt, check_options
from train.sources.source import Source, Split

KIND = Kind(
    'clip',
    'clips',
    ENDINGS,
    'give --data.path a folder with train/CLASS/*.mp4 and val/CLASS/*.mp4, or one with CLASS/*.mp4, of which a part is '
    'then held out (.mov, .mkv, .webm, .avi and .gif are read too)',
)


@dataclass(frozen=True)
class VideoFolder(Source):
    """Your own clips, of any size and length: one folder for each class (pip install 'vit-linen[video]')."""

    path: str = 'data/clips'
    """Folder with train/CLASS/*.mp4 and val/CLASS/*.mp4 (or test), or with CLASS/*.mp4. Classes are sorted by name."""
    held_out: float = 0.1
    """Part of each class that is held out where there is no val and no test; which clips depends on their names."""
    frames: int = 16
    """Frames that the model sees of a clip; of a shorter one the last is repeated."""
    stride: int = 2
    """From one of them to the next, from a random place on, in evaluation in the middle; 0 spreads them over the whole
    clip, each at random within its part."""
    channels: int = 3
    """What frames are turned into: 3 for colours, 1 for grey."""
    corrupt: Corrupt = 'refuse'
    """What an unreadable clip does: end the run, or be counted and replaced by the next readable one."""

    @property
    def mean(self) -> tuple[float, ...]:
        return MEAN[self.channels]

    @property
    def std(self) -> tuple[float, ...]:
        return STD[self.channels]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.frames, 0, 0, self.channels

    @property
    def classes(self) -> tuple[str, ...]:
        return self._index[0]

    def check(self) -> None:
        check_options(self.held_out, self.channels, self.corrupt)
        for name, least in (('frames', 1), ('stride', 0)):
            if getattr(self, name) < least:
                raise UserError(f'data.{name}={getattr(self, name)} must be at least {least}')
        pyav()

    def records(self, split: Split) -> Clips:
        return Clips(
            self._index[1][split],
            len(self.classes),
            self.path,
            self.channels,
            self.corrupt,
            frames=self.frames,
            stride=self.stride,
        )

    @cached_property
    def _index(self) -> tuple[tuple[str, ...], dict[Split, Listing]]:
        """The classes, and the clips of both splits; the folder is looked through once."""
        return find(self.path, self.held_out, KIND)
