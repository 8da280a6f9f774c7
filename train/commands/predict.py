"""`python -m train predict RUN IMAGE...`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax import Array
from rich.table import Table
from rich.text import Text

from train.commands.command import Command, RunFolder, Which, complain, console
from train.commands.picture import as_seen, read_picture
from train.errors import UserError
from train.grids import on_grid, token_grid
from train.places import place
from train.run import Run, open_run
from vit_flax.wrappers.recorder import Recorder

TOP = 5
# Pixels of the longer side of an image that is shown beside the answer.
SHOWN = 640


@dataclass(frozen=True, kw_only=True)
class Predict(Command):
    """What a run says about images: the most probable classes, and a drawing of where it looked.

    The images may have any size and any format that Pillow reads. Those that cannot be read are named, the others
    are predicted, and the exit code is then 2."""

    run: RunFolder
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar='IMAGE...', help='Files of images.')]
    out: Annotated[str, tyro.conf.arg(metavar='DIR', help='Folder of the drawings. By default RUN/predictions.')] = ''
    draw: Annotated[bool, tyro.conf.arg(help='Draw each answer.')] = True
    invert: Annotated[
        bool, tyro.conf.arg(help='Make black white first: for ink on paper, where the run knows light on dark.')
    ] = False
    checkpoint: Which = 'best'

    def execute(self) -> int:
        if not self.images:
            raise UserError('name at least one IMAGE to predict')
        run = open_run(self.run, self.checkpoint)
        if not run.config.objective.classifies:
            raise UserError(
                f'{self.run} has learned no classes: train a recipe of classes with --init {self.run} first, '
                'or take `python -m train features`'
            )
        if len(run.facts.shape) != 3:
            raise UserError(f'{self.run} knows videos, no images: `python -m train eval` measures it on others')
        if run.facts.dtype != 'uint8':
            raise UserError(f'{self.run} knows images of {run.facts.dtype}, and in what scale an image does not tell')
        out = place(self.out, '--out') if self.out else run.folder / 'predictions'
        if self.draw:
            _make(out)
        look, screen, failed = looker(run), console(), False
        drawn: set[str] = set()
        for name in self.images:
            try:
                image = read_picture(name, run.facts.shape[2])
            except UserError as error:
                complain(error)
                failed = True
                continue
            image = 255 - image if self.invert else image
            seen = as_seen(image, run.config.augment, run.facts.shape)
            probabilities, maps = jax.device_get(look(run.variables, seen[None]))
            said = [(run.name(i), float(probabilities[0, i])) for i in np.argsort(-probabilities[0])[:TOP]]
            screen.print(Text(name, style='bold'))
            screen.print(_table(said))
            if self.draw:
                file = _unused(Path(name).stem, drawn)
                _draw(out / file, Path(name).name, image, seen, maps, said, run)
        if drawn:
            screen.print(f'drawn in {out}: {", ".join(sorted(drawn))}', markup=False)
        return 2 if failed else 0


def looker(run: Run) -> Callable[..., tuple[Array, Any]]:
    """Images uint8 `[b h w c]` to probabilities `[b classes]` and attention maps as `Recorder` gives them."""

    def look(variables, images: Array) -> tuple[Array, Any]:
        objective, scaled = run.config.objective, run.scale.leaf(images)
        _, maps = Recorder(run.model).apply(objective.network(variables), scaled)
        return jax.nn.softmax(objective.logits(run.model, variables, scaled)), maps

    return jax.jit(look)


def where(maps: Any, run: Run) -> list[tuple[str, np.ndarray]]:
    """Attention of the last block to each patch, and attention rollout if all blocks attend to the same tokens.

    Empty where a model's attention has no place in the image: windows, channels, or none at all.
    """
    if maps is None:
        return []
    stacked = not isinstance(maps, dict)
    last = maps[:, -1] if stacked else list(maps.values())[-1]
    tokens = last.shape[-1]
    places = token_grid(tokens, run.facts.size, run.model) if len(last) == 1 else None
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
    maps: Any,
    said: Sequence[tuple[str, float]],
    run: Run,
) -> None:
    from train.plots.answer import answer

    part = max(1, -(-max(image.shape[:2]) // SHOWN))
    answer(path, title, image[::part, ::part], seen, where(maps, run), said)


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
