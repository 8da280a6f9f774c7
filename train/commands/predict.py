"""`python -m train predict RUN IMAGE...`, and with published weights in the place of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax import Array
from rich.table import Table
from rich.text import Text

from train.commands.command import Command, Which, complain, console
from train.commands.picture import as_seen, read_picture
from train.config import Checkpoint
from train.errors import UserError
from train.grids import on_grid, token_grid
from train.origin import is_run, published
from train.places import place
from train.run import open_run
from train.scale import Scale
from vit_flax.blocks.backbone import Backbone
from vit_flax.wrappers.recorder import Recorder

TOP = 5
# Pixels of the longer side of an image that is shown beside the answer.
SHOWN = 640


@dataclass(frozen=True, kw_only=True)
class Predict(Command):
    """The most probable classes of images, by a run or by published weights, and plots of the attention.

    Published weights are a file or folder, or a name that `vit_flax.from_pretrained` takes. The images may have any
    size and any format that Pillow reads. Those that cannot be read are named, the others are predicted, and the exit
    code is then 2."""

    run: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar='RUN', help='Folder of a run, or published weights.')
    ]
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar='IMAGE...', help='Files of images.')]
    out: Annotated[str, tyro.conf.arg(metavar='DIR', help='Folder of the drawings. By default RUN/predictions.')] = ''
    draw: Annotated[bool, tyro.conf.arg(help='Draw each answer.')] = True
    invert: Annotated[
        bool, tyro.conf.arg(help='Make black white first: for ink on paper, where the run knows light on dark.')
    ] = False
    checkpoint: Which = 'best'
    model: Annotated[
        str,
        tyro.conf.arg(
            help='Of a file of published weights without a configuration: the network, and whose images, such as '
            'vit_small_patch16_224.augreg_in1k.'
        ),
    ] = ''

    def execute(self) -> int:
        if not self.images:
            raise UserError('name at least one IMAGE to predict')
        predictor = of_run(self.run, self.checkpoint) if is_run(self.run) else of_weights(self.run, self.model)
        out = place(self.out, '--out') if self.out else predictor.out
        if self.draw:
            _make(out)
        screen, failed = console(), False
        drawn: set[str] = set()
        for name in self.images:
            try:
                image = read_picture(name, predictor.channels)
            except UserError as error:
                complain(error)
                failed = True
                continue
            image = 255 - image if self.invert else image
            seen = predictor.crop(image)
            probabilities, maps = jax.device_get(predictor.look(seen[None]))
            said = [(predictor.name(i), float(probabilities[0, i])) for i in np.argsort(-probabilities[0])[:TOP]]
            screen.print(Text(name, style='bold'))
            screen.print(_table(said))
            if self.draw:
                file = _unused(Path(name).stem, drawn)
                _draw(out / file, Path(name).name, image, seen, where(maps, seen.shape[:2], predictor.network), said)
        if drawn:
            screen.print(f'drawn in {out}: {", ".join(sorted(drawn))}', markup=False)
        return 2 if failed else 0


@dataclass(frozen=True)
class Predictor:
    """What images are predicted with.

    Attributes:
      network: that does it.
      channels: of the images.
      crop: an image of any size `[h w c]` as the network sees it, in uint8.
      look: such images `[b h w c]` to probabilities `[b classes]`, and attention maps as `Recorder` gives them.
      name: of a class by its number.
      out: folder of the plots, if no other is given.
    """

    network: Backbone
    channels: int
    crop: Callable[[np.ndarray], np.ndarray]
    look: Callable[[np.ndarray], tuple[Array, Any]]
    name: Callable[[int], str]
    out: Path


def of_run(folder: str, checkpoint: Checkpoint) -> Predictor:
    """Of a run that has learned classes of images."""
    run = open_run(folder, checkpoint)
    objective, facts = run.config.objective, run.facts
    if not objective.classifies:
        raise UserError(
            f'{folder} has learned no classes: train a recipe of classes with --init {folder} first, '
            'or take `python -m train features`'
        )
    if len(facts.shape) != 3:
        raise UserError(f'{folder} knows videos, no images: `python -m train eval` measures it on others')
    if facts.dtype != 'uint8':
        raise UserError(f'{folder} knows images of {facts.dtype}, and in what scale an image does not tell')

    def look(variables: Any, images: Array) -> tuple[Array, Any]:
        scaled = run.scale.leaf(images)
        _, maps = Recorder(run.model).apply(objective.network(variables), scaled)
        return jax.nn.softmax(objective.logits(run.model, variables, scaled)), maps

    return Predictor(
        run.model,
        facts.shape[2],
        lambda image: as_seen(image, run.config.augment, facts.shape),
        partial(jax.jit(look), run.variables),
        run.name,
        run.folder / 'predictions',
    )


def of_weights(name: str, model: str) -> Predictor:
    """Of published weights with a head.

    Raises:
      UserError: they cannot be read, are not of a network with classes, or nothing says how their images are prepared.
    """
    try:
        found = published(name, model=model)
        network, variables, _ = found.load()
        images = found.preprocessing
    except ValueError as error:
        raise UserError(str(error)) from error
    if not network.head:
        raise UserError(f'{found.name} has no head, so it knows no classes: `python -m train finetune --init` adds one')
    scale, names = Scale(images.mean, images.std), found.class_names(network.num_classes)

    def look(variables: Any, pictures: Array) -> tuple[Array, Any]:
        logits, maps = Recorder(network).apply(variables, scale.leaf(pictures))
        return jax.nn.softmax(logits), maps

    return Predictor(
        network,
        len(images.mean),
        images.crop,
        partial(jax.jit(look), variables),
        names.__getitem__,
        Path('predictions'),
    )


def where(maps: Any, size: tuple[int, ...], network: Backbone) -> list[tuple[str, np.ndarray]]:
    """Attention of the last block to each patch, and attention rollout if all blocks attend to the same tokens.

    Args:
      maps: as `Recorder` gives them.
      size: height and width of the image.
      network: that they are of.

    Empty where a model's attention has no place in the image: windows, channels, or none at all.
    """
    if maps is None:
        return []
    stacked = not isinstance(maps, dict)
    last = maps[:, -1] if stacked else list(maps.values())[-1]
    tokens = last.shape[-1]
    places = token_grid(tokens, size, network) if len(last) == 1 else None
    if places is None or max(places.shape) == 1 or last.shape[-2] not in (1, tokens):
        return []
    found = [('attention, last block', on_grid(last.mean(1)[0], places))]
    if stacked and last.shape[-2] == tokens:
        from train.plots.attention import rollout  # matplotlib is slow to import

        found.append(('attention rollout', on_grid(rollout(maps)[0], places)))
    return [(name, weights / max(weights.max(), 1e-12)) for name, weights in found]


def _draw(
    path: Path,
    title: str,
    image: np.ndarray,
    seen: np.ndarray,
    maps: Sequence[tuple[str, np.ndarray]],
    said: Sequence[tuple[str, float]],
) -> None:
    from train.plots.answer import answer

    part = max(1, -(-max(image.shape[:2]) // SHOWN))
    answer(path, title, image[::part, ::part], seen, maps, said)


def _table(said: Sequence[tuple[str, float]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=True)
    for number, (name, probability) in enumerate(said, 1):
        table.add_row(str(number), name, f'{100 * probability:5.1f} %')
    return table


def _unused(stem: str, taken: set[str]) -> str:
    """A file name that no image of this call has yet."""
    number = 1
    name = f'{stem}.png'
    while name in taken:
        number += 1
        name = f'{stem}-{number}.png'
    taken.add(name)
    return name


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out {folder} cannot be written: {error.strerror}') from error
