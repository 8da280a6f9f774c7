"""How much of a batch of packed images is padding, and how many shapes there are to compile: counted, not timed.

    python benchmarks/packing.py [--batches 100] [--images 64] [--patch-size 16]

The mix: the photographs of scikit-learn, scikit-image and foolbox with their own ratio of height to width, half of
them turned upright, each scaled to an area of R x R pixels with R uniform between 64 and 256 (the NaViT paper,
arXiv:2307.06304, varies the resolution so) and cut to whole patches. The same seed gives the same figures.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np

from vit_flax.packing import group_images_by_max_seq_len, pack_images

# height and width of each file
PHOTOGRAPHS = {
    'scikit-learn': ((427, 640), (427, 640)),
    'scikit-image': (
        *((512, 512), (660, 550), (300, 451), (300, 400), (400, 600), (303, 384), (328, 400), (872, 1000)),
        *((500, 741), (500, 741), (191, 384), (1411, 1411), (427, 640), (172, 448)),
    ),
    'foolbox': ((683, 1024), (512, 512)),
}


def draw_sizes(rng: np.random.Generator, count: int, patch_size: int) -> list[tuple[int, int]]:
    """Heights and widths of so many images of the mix."""
    files = [size for sizes in PHOTOGRAPHS.values() for size in sizes]
    sizes = []
    for height, width in rng.permuted(np.array(files)[rng.integers(len(files), size=count)], axis=1):
        scale = rng.uniform(64, 256) / math.sqrt(height * width)
        rows, columns = (max(1, int(scale * side / patch_size)) for side in (height, width))
        sizes.append((rows * patch_size, columns * patch_size))
    return sizes


def upstream(images: list[np.ndarray], patch_size: int, max_tokens: int) -> tuple[int, ...]:
    """Rows and length of vit-pytorch's batch: the same rows, as long as the longest of them."""
    groups = group_images_by_max_seq_len(images, patch_size, max_seq_len=max_tokens)
    return len(groups), max(sum(tokens(image, patch_size) for image in group) for group in groups)


def tokens(image: np.ndarray, patch_size: int) -> int:
    return image.shape[0] * image.shape[1] // patch_size**2


def ours(tight: bool) -> Callable[[list[np.ndarray], int, int], tuple[int, ...]]:
    """Rows and length of `pack_images`."""

    def shape(images, patch_size, max_tokens):
        return pack_images(images, patch_size, max_tokens, tight=tight)['patches'].shape[:2]

    return shape


def alone(images: list[np.ndarray], patch_size: int, max_tokens: int) -> tuple[int, ...]:
    """A row for each image, as long as the largest needs."""
    return len(images), max(tokens(image, patch_size) for image in images)


CONTESTANTS = {
    'a row for each image': alone,
    'vit-pytorch, `group_images=True`': upstream,
    '`pack_images(...)`': ours(tight=False),
    '`pack_images(..., tight=True)`': ours(tight=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batches', type=int, default=100)
    parser.add_argument('--images', type=int, default=64, help='in a batch')
    parser.add_argument('--patch-size', type=int, default=16)
    parser.add_argument('--max-tokens', type=int, nargs='*', default=[256, 512, 1024])
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(args.batches):
        sizes = draw_sizes(rng, args.images, args.patch_size)
        batches.append([np.zeros((*size, 1), np.uint8) for size in sizes])
    used = sum(tokens(image, args.patch_size) for images in batches for image in images)

    def cells(shapes: list[tuple[int, ...]]) -> str:
        return f'{1 - used / sum(map(math.prod, shapes)):.1%} | {len(set(shapes))} |'

    header = ' | '.join(f'padding, rows of {limit} | shapes' for limit in args.max_tokens)
    print(f'| packed by | {header} |\n|---|{"--:|" * 2 * len(args.max_tokens)}')
    for name, shape_of in CONTESTANTS.items():
        shapes = [[shape_of(images, args.patch_size, limit) for images in batches] for limit in args.max_tokens]
        print(f'| {name} |', *map(cells, shapes))


if __name__ == '__main__':
    main()
