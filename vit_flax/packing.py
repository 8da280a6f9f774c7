"""Images of many sizes as a few arrays of few shapes: the host's side of NaViT (arXiv:2307.06304).

An image of 64 x 96 pixels has 24 patches of 16 x 16, one of 224 x 224 has 196. Instead of resizing
both to one shape, `pack_images` lays the patches of several images one after another into a row:

    row 0:  image 0 image 0 image 0 image 1 image 1 -------
    row 1:  image 2 image 2 image 2 image 2 image 2 image 2

and says of each place which image it belongs to, so that the model keeps them apart:

    model = NaViT(image_size=256, patch_size=16, ...)
    packed = pack_images(images, patch_size=16, max_tokens=256)
    logits = model.apply(variables, **packed)            # a slot for each image of each row
    logits = from_slots(logits, packed['slots'])         # one row for each image, in the list's order

Lengths are rounded up to one of a few, because JAX compiles once for each shape: a stream of lists of
any images compiles as often as there are shapes. `model.pack(images)` is the same with the patch size,
the channels and the token dropping of a model. All of it is numpy and knows no device.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vit_flax.blocks.checks import pair, patch_counts

# A share of the tokens, or a function of an image's lengths in pixels that gives one.
Rate = float | Callable[..., float]
Lists = Sequence[Any] | Sequence[Sequence[Any]]

AXES = {2: 'h w c', 3: 't h w c'}


def pack_images(
    images: Lists,
    patch_size: int | Sequence[int],
    max_tokens: int | None = 2048,
    max_images: int | None = None,
    *,
    token_dropout_prob: Rate | None = None,
    rng: np.random.Generator | int | None = None,
    kept_tokens: Sequence[Any] | None = None,
    tight: bool = False,
    lengths: int | Sequence[int] | None = None,
    rows: int | Sequence[int] | None = None,
    channels: int | None = None,
    grid: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """A list of images of any sizes as arrays for `model.apply(variables, **pack_images(...))`.

    Args:
      images: `[h w c]` arrays (`[t h w c]` volumes, if `patch_size` has three numbers), channels last. A
        list of them is cut into rows here, each image in the row of the one before while there is room,
        as upstream groups; a list of lists has one list for each row.
      patch_size: height and width of a patch, or one number for both; its length tells the axes.
      max_tokens: the most patches in a row; None: no limit, all images of a list in one row.
      max_images: the most images in a row, and the number of slots that every row then has.
      token_dropout_prob: share of an image's patches that is left out, in training; a number, or a
        function of the image's height and width. At least one patch stays.
      rng: what draws the patches that stay, a numpy generator or a seed.
      kept_tokens: the draw itself, for each image the patches that stay (see `draw_kept_tokens`).
      tight: choose for each image the fullest row with room for it, the largest images first, instead
        of the next row: less padding, and the images of a row are no neighbours in the list.
      lengths: lengths that rows may have, the shortest that holds all is taken. Default: `round_up`.
      rows: how many rows there may be, likewise; those without images are all padding.
      channels: of every image; those of the first one if None.
      grid: patches along each axis that the model has positions for.

    Returns:
      patches: `[b n d]`, patch by patch with channels before rows before columns; zeros in padding.
      positions: int `[b n 2]`, row and column of each patch in its image (three numbers for volumes).
      image_ids: int `[b n]`, the slot of the image that a patch is of; -1 in padding.
      slots: int `[b i]`, which image of the list is in each slot of a row; -1 in an empty one.

    Raises:
      ValueError: no image at all, one that patches do not tile, of other channels, with more patches
        than `max_tokens` or than positions, or a row with too many of them; too few `lengths` or `rows`.
    """
    flat, given_rows = _flatten(images)
    parts = pair(patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    arrays = [np.asarray(image) for image in flat]
    grids = [_grid(index, image.shape, parts, channels or arrays[0].shape[-1]) for index, image in enumerate(arrays)]
    if grid is not None:
        for index, steps in enumerate(grids):
            if any(step > most for step, most in zip(steps, grid, strict=True)):
                raise ValueError(
                    f'image {index} has {_times(steps)} patches, the model has positions for {_times(grid)}: build '
                    'it with a larger image_size'
                )
    if kept_tokens is None and token_dropout_prob:
        if rng is None:
            raise ValueError('rng=None must be a numpy generator or a seed when tokens are dropped')
        kept_tokens = draw_kept_tokens(rng, arrays, parts, token_dropout_prob)
    chosen = [*map(np.arange, map(math.prod, grids))] if kept_tokens is None else _checked(kept_tokens, grids)
    counts = [*map(len, chosen)]
    for index, count in enumerate(counts):
        if max_tokens is not None and count > max_tokens:
            raise ValueError(f'image {index} has {count} tokens, more than max_tokens={max_tokens}')
    groups = given_rows or (tight_rows if tight else greedy_rows)(counts, max_tokens, max_images)
    _check_rows(groups, counts, max_tokens, max_images)

    longest = max(sum(counts[index] for index in group) for group in groups)
    length = _fit('lengths', longest, lengths, 'tokens in the longest row', least=8)
    height = _fit('rows', len(groups), rows, 'rows of images')
    most = max(map(len, groups))
    width = 1 << (most - 1).bit_length() if max_images is None else max_images

    patches = np.zeros((height, length, math.prod(parts) * arrays[0].shape[-1]), np.result_type(*arrays))
    positions = np.zeros((height, length, len(parts)), np.int32)
    image_ids = np.full((height, length), -1, np.int32)
    slots = np.full((height, width), -1, np.int32)
    for row, group in enumerate(groups):
        slots[row, : len(group)] = group
        ends = itertools.accumulate(counts[index] for index in group)
        for slot, (index, end) in enumerate(zip(group, ends, strict=True)):
            places = slice(end - counts[index], end)
            patches[row, places] = cut_patches(arrays[index], parts)[chosen[index]]
            positions[row, places] = np.indices(grids[index]).reshape(len(parts), -1).T[chosen[index]]
            image_ids[row, places] = slot
    return {'patches': patches, 'positions': positions, 'image_ids': image_ids, 'slots': slots}


def cut_patches(image: np.ndarray, patch_lengths: Sequence[int]) -> np.ndarray:
    """`[(h p) (w q) c] -> [(h w) (c p q)]`; volumes likewise, with frames before rows."""
    rank = len(patch_lengths)
    steps = [length // part for length, part in zip(image.shape, patch_lengths, strict=False)]
    cut = image.reshape(*itertools.chain(*zip(steps, patch_lengths, strict=True)), image.shape[-1])
    order = (*range(0, 2 * rank, 2), 2 * rank, *range(1, 2 * rank, 2))
    return cut.transpose(order).reshape(math.prod(steps), -1)


def round_up(number: int, least: int = 1) -> int:
    """The next of 1 2 3 4 5 6 7 8 10 12 14 16 20 24 28 32 40 ...: four to a power of two, less than a quarter more."""
    number = max(number, least)
    unit = 1 << max(0, (number - 1).bit_length() - 3)
    return -(-number // unit) * unit


def greedy_rows(counts: Sequence[int], max_tokens: int | None, max_images: int | None = None) -> list[list[int]]:
    """Numbers of images by row: each in the row of the one before it while there is room, as upstream does."""
    groups: list[list[int]] = [[]]
    used = 0
    for index, count in enumerate(counts):
        full = max_tokens is not None and used + count > max_tokens
        if full or len(groups[-1]) == max_images:
            groups.append([])
            used = 0
        groups[-1].append(index)
        used += count
    return groups


def tight_rows(counts: Sequence[int], max_tokens: int | None, max_images: int | None = None) -> list[list[int]]:
    """Numbers of images by row: the largest first, each in the fullest row that has room for it."""
    room = math.inf if max_tokens is None else max_tokens
    places = math.inf if max_images is None else max_images
    groups: list[list[int]] = []
    used: list[int] = []
    for index in sorted(range(len(counts)), key=lambda index: -counts[index]):
        open_rows = [
            row for row, group in enumerate(groups) if used[row] + counts[index] <= room and len(group) < places
        ]
        if not open_rows:
            open_rows = [len(groups)]
            groups.append([])
            used.append(0)
        row = max(open_rows, key=lambda row: used[row])
        groups[row].append(index)
        used[row] += counts[index]
    return groups


def group_images_by_max_seq_len(
    images: Sequence[Any],
    patch_size: int | Sequence[int],
    calc_token_dropout: Rate | None = None,
    max_seq_len: int = 2048,
) -> list[list[Any]]:
    """Upstream's function of this name: a list of images as a list of rows of at most `max_seq_len` patches.

    Raises:
      ValueError: an image has more patches alone.
    """
    parts = pair(patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    counts = []
    for index, image in enumerate(images):
        steps = [length // part for length, part in zip(image.shape, parts, strict=False)]
        # an image that loses all its patches counts as the one that stays, for vit-pytorch as none
        counts.append(tokens_kept(math.prod(steps), _rate(calc_token_dropout or 0.0, image.shape[:-1])))
        if counts[-1] > max_seq_len:
            raise ValueError(f'image {index} has {counts[-1]} tokens, more than max_seq_len={max_seq_len}')
    return [[images[index] for index in group] for group in greedy_rows(counts, max_seq_len) if group]


def tokens_kept(tokens: int, rate: float) -> int:
    """How many of an image's patches stay, at least one."""
    return max(1, int(tokens * (1 - rate)))


def draw_kept_tokens(
    rng: np.random.Generator | int,
    images: Sequence[Any],
    patch_size: int | Sequence[int],
    token_dropout_prob: Rate,
    count: Callable[[int, float], int] = tokens_kept,
) -> list[np.ndarray]:
    """Which patches of each image stay, int `[kept]` in rising order: all choices are equally likely.

    Args:
      rng: a numpy generator or a seed.
      images: `[h w c]`, or lists of them, as for `pack_images`.
      patch_size: as for `pack_images`.
      token_dropout_prob: the share that is left out, or a function of an image's height and width.
      count: of the patches and the share, how many stay.
    """
    rng = np.random.default_rng(rng)
    parts = pair(patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    kept = []
    for index, image in enumerate(_flatten(images)[0]):
        tokens = math.prod(_grid(index, image.shape, parts, image.shape[-1]))
        kept.append(np.sort(rng.permutation(tokens)[: count(tokens, _rate(token_dropout_prob, image.shape[:-1]))]))
    return kept


def from_slots(outputs: Any, slots: np.ndarray) -> Any:
    """What a model says of packed images, one row for each in the list's order: `[b i ...] -> [images ...]`."""
    places = np.flatnonzero(np.ravel(slots) >= 0)
    return outputs.reshape(-1, *outputs.shape[2:])[places[np.argsort(np.ravel(slots)[places])]]


def to_slots(values: Any, slots: np.ndarray, empty: Any = 0) -> np.ndarray:
    """What belongs to the images (labels) laid out as the model's outputs are: `[images ...] -> [b i ...]`.

    A loss leaves the empty slots out: `jnp.sum(losses, where=slots >= 0) / jnp.sum(slots >= 0)`.
    """
    values = np.asarray(values)
    used = np.reshape(slots >= 0, (*slots.shape, *(1,) * (values.ndim - 1)))
    return np.where(used, values[slots], np.asarray(empty, values.dtype))


def _flatten(images: Lists) -> tuple[list[Any], list[list[int]] | None]:
    """All images of a list or a list of lists, and the rows that the latter says."""
    if len(images) == 0:
        raise ValueError('images=[] must hold one image at least')
    if not isinstance(images[0], list | tuple):
        return [*images], None
    numbers = itertools.count()
    rows = [[next(numbers) for _ in row] for row in images]
    if next(numbers) == 0:
        raise ValueError('images, a list of empty lists, must hold one image at least')
    return [image for row in images for image in row], rows


def _grid(index: int, shape: Sequence[int], parts: Sequence[int], channels: int) -> tuple[int, ...]:
    """Patches along each axis of one image; raises if it is none for this patch size."""
    name = f'image {index}'
    if len(shape) != len(parts) + 1:
        layout = AXES.get(len(parts), f'{len(parts)} axes, c')
        raise ValueError(f'{name} of shape {tuple(shape)} must be [{layout}] for patch_size={tuple(parts)}')
    if shape[-1] != channels:
        hint = ' (channels come last here, unlike in PyTorch)' if shape[0] == channels else ''
        raise ValueError(f'{name} of shape {tuple(shape)} must have {channels} channels in the last axis{hint}')
    if 0 in shape:
        raise ValueError(f'{name} of shape {tuple(shape)} is empty')
    return patch_counts(shape[:-1], parts, f'the size of {name}')


def _times(lengths: Sequence[int]) -> str:
    return ' x '.join(map(str, lengths))


def _rate(token_dropout_prob: Rate, lengths: Sequence[int]) -> float:
    rate = token_dropout_prob(*lengths) if callable(token_dropout_prob) else token_dropout_prob
    if not 0 <= rate < 1:
        of = f' of an image of {_times(lengths)}' if callable(token_dropout_prob) else ''
        raise ValueError(f'token_dropout_prob={rate}{of} must be at least 0 and below 1')
    return rate


def _checked(kept_tokens: Sequence[Any], grids: Sequence[Sequence[int]]) -> list[np.ndarray]:
    if len(kept_tokens) != len(grids):
        raise ValueError(f'kept_tokens of {len(kept_tokens)} images must be of the {len(grids)} that are given')
    chosen = [*map(np.asarray, kept_tokens)]
    for index, (kept, grid) in enumerate(zip(chosen, grids, strict=True)):
        tokens = math.prod(grid)
        if not 0 < len(np.unique(kept)) == len(kept) or kept.min() < 0 or kept.max() >= tokens:
            raise ValueError(f'kept_tokens of image {index} must be different numbers below its {tokens} patches')
    return chosen


def _check_rows(
    groups: Sequence[Sequence[int]], counts: Sequence[int], max_tokens: int | None, max_images: int | None
) -> None:
    for row, group in enumerate(groups):
        tokens = sum(counts[index] for index in group)
        if max_tokens is not None and tokens > max_tokens:
            raise ValueError(f'row {row} has {tokens} tokens, more than max_tokens={max_tokens}')
        if max_images is not None and len(group) > max_images:
            raise ValueError(f'row {row} has {len(group)} images, more than max_images={max_images}')


def _fit(name: str, number: int, allowed: int | Sequence[int] | None, what: str, least: int = 1) -> int:
    """The smallest of the allowed sizes that is enough."""
    if allowed is None:
        return round_up(number, least)
    sizes = sorted((allowed,) if isinstance(allowed, int) else allowed)
    enough: Iterator[int] = (size for size in sizes if size >= number)
    found = next(enough, None)
    if found is None:
        raise ValueError(f'{name}={allowed} is too small: there are {number} {what}')
    return found
