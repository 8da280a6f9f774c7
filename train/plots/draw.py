"""All plots of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.data.augment import Augment
from train.grids import token_grid
from train.log import Row
from train.objectives.objective import Objective
from train.plots.attention import attention
from train.plots.curves import curves
from train.plots.embeddings import filters, positions
from train.plots.predictions import predictions
from train.plots.reconstructions import reconstructions
from train.scale import Scale
from train.sources.source import Record
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import pair
from vit_flax.wrappers.recorder import Recorder

# Enough to find every mistake of a small data set, and quick for a large one.
IMAGES, BATCH, ATTENDED = 512, 64, 6


def draw(
    folder: Path,
    rows: Sequence[Row],
    held_out: Sequence[Record],
    objective: Objective,
    model: Backbone,
    scale: Scale,
    variables: Mapping[str, Any],
    augment: Augment,
    classes: Sequence[str],
) -> list[Path]:
    """Draws what this model has to show, and returns the files."""
    folder.mkdir(exist_ok=True)
    drawn = []

    def file(name: str) -> Path:
        drawn.append(folder / f'{name}.png')
        return drawn[-1]

    records = [augment.evaluate(held_out[i]) for i in range(min(len(held_out), IMAGES))]
    seen, labels = (np.stack([record[key] for record in records]) for key in ('image', 'label'))
    images = shown(_frame(seen))

    if rows:
        curves(file('curves'), rows)
    chosen = _one_of_each(labels)
    few = scale({'image': seen[chosen]})['image']
    if objective.classifies:

        @jax.jit
        def classify(variables, images):
            return jax.nn.softmax(objective.logits(model, variables, scale({'image': images})['image']))

        parts = np.array_split(seen, -(-len(seen) // BATCH))
        probabilities = np.concatenate([classify(variables, part) for part in parts])
        # A network may have more classes than the data.
        classes = [*classes, *(f'class {i}' for i in range(len(classes), probabilities.shape[1]))]
        predictions(file('predictions'), images, labels, probabilities, classes)
    complete = objective.pictures(model, scale)
    if complete is not None and seen.dtype == np.uint8:
        masked, predicted = jax.jit(complete)(variables, few, jax.random.key(0))
        both = (scale.shown(_frame(np.asarray(pictures))) for pictures in (masked, predicted))
        reconstructions(file('reconstructions'), images[chosen], *both)

    variables = objective.network(variables)
    _, maps = jax.jit(Recorder(model).apply)(variables, few)
    square = seen.ndim == 4 and isinstance(maps, jax.Array) and maps.shape[-1] == maps.shape[-2]
    tokens = token_grid(maps.shape[-1], images.shape[1:3], model) if square else None
    if tokens is not None:
        titles = [classes[label] for label in labels[chosen]]
        attention(file('attention'), images[chosen], titles, np.asarray(maps), tokens)

    patch = pair(model.patch_size) if hasattr(model, 'patch_size') else None
    if patch is None:
        return drawn
    patches = images.shape[1] // patch[0], images.shape[2] // patch[1]
    table = variables['params'].get('pos_embedding')
    if table is not None and len(table) >= patches[0] * patches[1]:
        positions(file('positions'), np.asarray(table), patches)
    embedding = variables['params'].get('to_patch_embedding', {}).get('projection', {}).get('kernel')
    if embedding is not None and len(embedding) == patch[0] * patch[1] * images.shape[-1]:
        filters(file('filters'), np.asarray(embedding), (*patch, images.shape[-1]))
    return drawn


def shown(images: np.ndarray) -> np.ndarray:
    """Images as plots have them, from 0 to 1, float32; of other numbers than bytes all that there are."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    low, high = images.min(), images.max()
    return (images - low) / max(high - low, np.finfo(np.float32).tiny)


def _frame(images: np.ndarray) -> np.ndarray:
    """Images `[b h w c]` as they are; of videos `[b t h w c]` the frame in the middle."""
    return images if images.ndim == 4 else images[:, images.shape[1] // 2]


def _one_of_each(labels: np.ndarray) -> list[int]:
    """The first image of each class, as many as are shown."""
    first = {label: i for i, label in reversed(list(enumerate(labels)))}
    return [first[label] for label in sorted(first)][:ATTENDED]
