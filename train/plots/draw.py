"""All pictures of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from train.data.source import Source
from train.log import Row
from train.plots.attention import attention
from train.plots.curves import curves
from train.plots.embeddings import filters, positions
from train.plots.predictions import predictions
from vit_flax.blocks.checks import pair
from vit_flax.wrappers.recorder import Recorder

# Enough to find every mistake of a small data set, and quick for a large one.
IMAGES, BATCH, ATTENDED = 512, 64, 6


def draw(
    folder: Path, rows: Sequence[Row], source: Source, model: nn.Module, variables: Mapping[str, Any]
) -> list[Path]:
    """Draws what this model has to show, and returns the files."""
    folder.mkdir(exist_ok=True)
    drawn = []

    def file(name: str) -> Path:
        drawn.append(folder / f'{name}.png')
        return drawn[-1]

    records = source.records('val')
    records = [source.prepare(records[i]) for i in range(min(len(records), IMAGES))]
    images, labels = (np.stack([record[key] for record in records]) for key in ('image', 'label'))

    @jax.jit
    def classify(variables, images):
        return jax.nn.softmax(jnp.asarray(model.apply(variables, images), jnp.float32))

    parts = np.array_split(images, -(-len(images) // BATCH))
    probabilities = np.concatenate([classify(variables, part) for part in parts])

    curves(file('curves'), rows)
    predictions(file('predictions'), images, labels, probabilities, source.classes)

    patch = pair(model.patch_size) if hasattr(model, 'patch_size') else None
    if patch is None:
        return drawn
    patches = images.shape[1] // patch[0], images.shape[2] // patch[1]
    chosen = _one_of_each(labels)
    _, maps = jax.jit(Recorder(model).apply)(variables, images[chosen])
    if isinstance(maps, jax.Array) and maps.shape[-1] >= patches[0] * patches[1]:
        titles = [source.classes[label] for label in labels[chosen]]
        attention(file('attention'), images[chosen], titles, np.asarray(maps), patches)
    table = variables['params'].get('pos_embedding')
    if table is not None and len(table) >= patches[0] * patches[1]:
        positions(file('positions'), np.asarray(table), patches)
    embedding = variables['params'].get('to_patch_embedding', {}).get('projection', {}).get('kernel')
    if embedding is not None and len(embedding) == patch[0] * patch[1] * images.shape[-1]:
        filters(file('filters'), np.asarray(embedding), (*patch, images.shape[-1]))
    return drawn


def _one_of_each(labels: np.ndarray) -> list[int]:
    """The first image of each class, as many as are shown."""
    first = {label: i for i, label in reversed(list(enumerate(labels)))}
    return [first[label] for label in sorted(first)][:ATTENDED]
