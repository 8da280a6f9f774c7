"""Argument checks shared by the models: each says what was given and what would be right."""

from collections.abc import Sequence

from jax import Array


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """`8 -> (8, 8)`, `(8, 4) -> (8, 4)`."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r} is unknown: use one of {", ".join(map(repr, choices))}')


def patch_grid(
    image_size: int | Sequence[int],
    patch_size: int | Sequence[int],
    name: str = 'image_size',
    patches: str = 'patch_size',
) -> tuple[int, int]:
    """Rows and columns of patches; raises if the patches do not tile the image."""
    (h, w), (ph, pw) = pair(image_size), pair(patch_size)
    if h % ph or w % pw:
        raise ValueError(
            f'{name}={(h, w)} is not divisible by {patches}={(ph, pw)}: '
            f'the nearest that fit are {(h // ph * ph, w // pw * pw)} and {(-(-h // ph) * ph, -(-w // pw) * pw)}'
        )
    return h // ph, w // pw


def check_images(images: Array, channels: int, layout: str = 'b h w c') -> None:
    """Raises unless `images` has the layout's rank and the right number of channels, last."""
    axes = layout.split()
    if images.ndim != len(axes):
        raise ValueError(f'expected input of layout [{layout}], got shape {images.shape} with {images.ndim} axes')
    if images.shape[-1] != channels:
        hint = ' (channels come last here, unlike in PyTorch)' if images.shape[1] == channels else ''
        raise ValueError(f'expected {channels} channels in the last axis, got shape {images.shape}{hint}')


def check_divisible(name: str, value: int, by: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f'{name}={value} is not divisible by {by}={divisor}')


def check_room(patches: int, room: int, image_size: int | Sequence[int]) -> None:
    """Raises if images have more patches than the position table of `image_size` has rows for."""
    if patches > room:
        raise ValueError(
            f'the images have {patches} patches, image_size={image_size} has positions for {room}: build the model '
            'with the larger image_size and move the table with vit_flax.resize_position_embedding'
        )
