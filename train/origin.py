"""What fine-tuning begins with, before its weights are read: the network, and how its images are prepared."""

from dataclasses import dataclass
from typing import Any

from train.config import Model
from train.errors import UserError
from train.model import FROM_DATA
from train.places import place
from train.run import open_config
from vit_flax.pretrained import FILES, Checkpoint, open_checkpoint


@dataclass(frozen=True)
class Origin:
    """A run or a checkpoint of pretrained weights.

    Attributes:
      model: the network without the arguments that follow from the data.
      image_size: height and width of its images, which are equal.
      mean, std: of each channel, or one for all, that they were normalised with.
    """

    model: Model
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def origin(init: str) -> Origin:
    """See `Origin`.

    Raises:
      UserError: there is no such run or checkpoint, its network is not known, or its images are not square.
    """
    if is_run(init):
        _, config, facts = open_config(init)
        args = {key: value for key, value in config.model.args.items() if key not in FROM_DATA}
        return Origin(Model(config.model.name, args), _side(init, facts.shape[-3:-1]), facts.mean, facts.std)
    found = published(init)
    if not found.model:
        raise UserError(
            f'init={init!r} is a file of weights, which does not say of which network: take a folder with its '
            'config.json, or another recipe, with --model.name'
        )
    args = {key: value for key, value in found.args.items() if key not in FROM_DATA}
    try:
        images = found.preprocessing
    except ValueError as error:
        raise UserError(f'init: {error}: take another recipe, with --augment.mean and --augment.std') from error
    return Origin(Model(found.model, args), _side(init, images.size), images.mean, images.std)


def is_run(init: str) -> bool:
    """Whether it is the folder of a run, and not of published weights or of arrays alone."""
    path = place(init, 'init')
    return path.is_dir() and not any((path / file).exists() for file in ('_METADATA', *FILES))


def published(name: str, **options: Any) -> Checkpoint:
    """Pretrained weights, downloaded if they have to be.

    Args:
      name: of a file, a folder, or as `vit_flax.from_pretrained` takes it.
      **options: of `vit_flax.pretrained.open_checkpoint`.

    Raises:
      UserError: there are none of this name, or they cannot be had.
    """
    path = place(name, 'weights')
    if not path.exists() and path.parts[:1] == ('runs',):  # where runs are by default
        raise UserError(f'{name}: there is no such file or folder: name a run or pretrained weights')
    try:
        return open_checkpoint(path if path.exists() else name, **options)
    except ValueError as error:
        raise UserError(str(error)) from error


def _side(init: str, size: tuple[int, ...]) -> int:
    height, width = size
    if height != width:
        raise UserError(
            f'init={init!r} was trained on images of {height}x{width}: take another recipe, --augment.image-size makes '
            'them square'
        )
    return height
