"""Views of images, videos and grids that objectives compare: random crops, each with its own change of colours.

Each kind of views is a value whose `draw(rng, images)` returns the views as keyword arguments of a loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vit_flax.blocks.arguments import check_arguments
from vit_flax.blocks.checks import pair
from vit_flax.objectives.augment import byol_augment, photometric_augment

# What is done to a crop: `(rng, images [b h w c]) -> images`.
Augmentation = Callable[[Array, Array], Array]


@dataclass(kw_only=True, unsafe_hash=True)
class MultiCrop:
    """Two large random crops of each image and several small ones, as of DINO (arXiv:2104.14294).

    Attributes:
      image_size: height and width of the large crops in pixels, or one number for both; None is that of the images.
      local_size: height and width of the small crops, for networks that take several sizes; None is that of the large
        ones.
      num_local_views: number of small crops of each image.
      global_lower_crop_scale: smallest area of a large crop, as a fraction of the image's; the largest is 1.
      local_lower_crop_scale: smallest area of a small crop, as a fraction of the image's.
      local_upper_crop_scale: largest area of a small crop, as a fraction of the image's.
      augment_fn, augment_fn2: `(rng, images) -> images`, applied to crops of even and odd index, values from 0 to 1;
        None is upstream's mixture of jitter, grey, mirror and blur (`augment.byol_augment`).
      local_augment_fn: the same for all small crops; None is as for the large ones.

    Raises:
      ValueError: an argument that makes no sense, or a smallest area above the largest.
    """

    image_size: int | Sequence[int] | None = None
    local_size: int | Sequence[int] | None = None
    num_local_views: int = 2
    global_lower_crop_scale: float = 0.5
    local_lower_crop_scale: float = 0.05
    local_upper_crop_scale: float = 0.4
    augment_fn: Augmentation | None = None
    augment_fn2: Augmentation | None = None
    local_augment_fn: Augmentation | None = None

    def __post_init__(self) -> None:
        check_arguments(self)
        self.scales()

    def draw(self, rng: Array, images: Array) -> dict[str, Array]:
        """Random crops of images with values from 0 to 1: `global_views` `[2 b h w c]`, `local_views` `[v b h w c]`.

        Upstream, which crops the whole batch at the same position, also subtracts ImageNet's mean: here that is left to
        the caller.
        """
        large, small = self.sizes(images.shape)
        augment = self.augment_fn or byol_augment, self.augment_fn2 or byol_augment
        local = (self.local_augment_fn,) * 2 if self.local_augment_fn else augment
        scales = self.scales()
        rngs = jax.random.split(rng)
        return {
            'global_views': draw_crops(rngs[0], images, 2, large, scales[0], augment),
            'local_views': draw_crops(rngs[1], images, self.num_local_views, small, scales[1], local),
        }

    def scales(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Smallest and largest area of the large and of the small crops."""
        smallest, largest = self.local_lower_crop_scale, self.local_upper_crop_scale
        if smallest > largest:
            raise ValueError(f'local_upper_crop_scale={largest} must be at least local_lower_crop_scale={smallest}')
        return (self.global_lower_crop_scale, 1.0), (smallest, largest)

    def sizes(self, shape: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of the large and of the small crops of images `[b h w c]`."""
        if len(shape) != 4:
            raise ValueError(f'images of shape {tuple(shape)} must be [b h w c]: views are crops of images')
        large = shape[1:3] if self.image_size is None else self.image_size
        return pair(large, 'image_size'), pair(large if self.local_size is None else self.local_size, 'local_size')

    def shapes(self, images: jax.ShapeDtypeStruct) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Of the large and the small crops of two such images, for tracing."""
        large, small = (
            jax.ShapeDtypeStruct((count, 2, *size, images.shape[-1]), images.dtype)
            for count, size in zip((2, self.num_local_views), self.sizes(images.shape), strict=True)
        )
        return large, small


@dataclass(kw_only=True, unsafe_hash=True)
class VideoCrops:
    """One large random crop of each video and several small ones of the same size, as of LeVJEPA (arXiv:2608.27395).

    Attributes:
      image_size: height and width of all crops in pixels, or one number for both; None is that of the videos.
      local_size: of the small crops; must be the same, since all are encoded together. None is the same.
      num_local_views: number of small crops of each video.
      local_crop_scale: smallest and largest area of a small crop, as fractions of a frame's.
      global_crop_scale: smallest and largest area of a large crop, as fractions of a frame's.
      local_augment_fn, global_augment_fn: `(rng, videos) -> videos`, values from 0 to 1; None is mirror, jitter and
        grey for the small crops (`augment.photometric_augment`) and nothing for the large ones.
      crop_ratio_range: smallest and largest width over height of a crop.

    Raises:
      ValueError: an argument that makes no sense.
    """

    image_size: int | Sequence[int] | None = None
    local_size: int | Sequence[int] | None = 96
    num_local_views: int = 4
    local_crop_scale: tuple[float, float] = (0.02, 0.4)
    global_crop_scale: tuple[float, float] = (0.8, 1.0)
    local_augment_fn: Augmentation | None = None
    global_augment_fn: Augmentation | None = None
    crop_ratio_range: tuple[float, float] = (0.75, 1.3333)

    def __post_init__(self) -> None:
        check_arguments(self)

    def draw(self, rng: Array, videos: Array) -> dict[str, Array]:
        """Random crops of videos `[b t h w c]` with values from 0 to 1.

        `global_views` `[1 b t h w c]`, `local_views` `[v b t h w c]`. Upstream, which crops the whole batch at the same
        position, also subtracts ImageNet's mean: here that is left to the caller.
        """
        size = self.size(videos.shape)
        keys = jax.random.split(rng, self.num_local_views + 1)

        def view(key: Array, scale: tuple[float, float], augment: Augmentation | None) -> Array:
            where, how = jax.random.split(key)
            batch, frames, *frame = videos.shape[:4]
            boxes = draw_boxes(where, batch, tuple(frame), scale, self.crop_ratio_range)
            images = videos.reshape(-1, *videos.shape[2:])
            cut = crop(images, jnp.repeat(boxes, frames, axis=0), size, 'cubic')
            cut = cut.reshape(batch, frames, *cut.shape[1:])
            return cut if augment is None else augment(how, cut)

        local = self.local_augment_fn or photometric_augment
        return {
            'global_views': view(keys[0], self.global_crop_scale, self.global_augment_fn)[None],
            'local_views': jnp.stack([view(key, self.local_crop_scale, local) for key in keys[1:]]),
        }

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Height and width of the crops of videos `[b t h w c]`."""
        if len(shape) != 5:
            raise ValueError(f'videos of shape {tuple(shape)} must be [b t h w c]')
        size = pair(shape[2:4] if self.image_size is None else self.image_size, 'image_size')
        if self.local_size is not None and pair(self.local_size, 'local_size') != size:
            raise ValueError(
                f'local_size={self.local_size} must equal image_size={self.image_size or size}: all views are '
                'encoded together'
            )
        return size


@dataclass(kw_only=True, unsafe_hash=True)
class GridViews:
    """Views of grids of any number of axes, changed by the caller's functions, as of LeVJEPA's `levjepa_nd`.

    Attributes:
      augment_src, augment_tgt: `(rng, x) -> x`, what makes the source view and the others; None leaves them alone.
      num_target_aug_views: number of views beside the source.
    """

    augment_src: Augmentation | None = None
    augment_tgt: Augmentation | None = None
    num_target_aug_views: int = 1

    def __post_init__(self) -> None:
        check_arguments(self)

    def draw(self, rng: Array, x: Array) -> dict[str, Array]:
        """Views of `[b *grid c]`: `global_views` `[1 b *grid c]`, `local_views` `[v b *grid c]`."""
        keys = jax.random.split(rng, self.num_target_aug_views + 1)

        def view(key: Array, augment: Augmentation | None) -> Array:
            return x if augment is None else augment(key, x)

        return {
            'global_views': view(keys[0], self.augment_src)[None],
            'local_views': jnp.stack([view(key, self.augment_tgt) for key in keys[1:]]),
        }


def draw_boxes(
    rng: Array,
    batch: int,
    size: tuple[int, ...],
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Array:
    """Random boxes inside an image: top, left, height and width in pixels, `[b 4]`.

    Args:
      rng: a key.
      batch: number of boxes.
      size: height and width of the image.
      scale: smallest and largest area, as fractions of the image's.
      ratio: smallest and largest width over height; a box that does not fit is cut to the image's height or width.
    """
    keys = jax.random.split(rng, 4)
    height, width = size
    area = height * width * jax.random.uniform(keys[0], (batch,), minval=scale[0], maxval=scale[1])
    aspect = jnp.exp(jax.random.uniform(keys[1], (batch,), minval=np.log(ratio[0]), maxval=np.log(ratio[1])))
    tall, broad = jnp.minimum(jnp.sqrt(area / aspect), height), jnp.minimum(jnp.sqrt(area * aspect), width)
    top = jax.random.uniform(keys[2], (batch,)) * (height - tall)
    left = jax.random.uniform(keys[3], (batch,)) * (width - broad)
    return jnp.stack([top, left, tall, broad], axis=-1)


def crop(images: Array, boxes: Array, size: tuple[int, int], method: str = 'linear') -> Array:
    """Cuts boxes out and resizes them with antialiasing, 'linear' or 'cubic', `[b h w c], [b 4] -> [b size c]`."""

    def one(image: Array, box: Array) -> Array:
        zoom = jnp.asarray(size) / box[2:]
        shape = (*size, image.shape[-1])
        return jax.image.scale_and_translate(image, shape, (0, 1), zoom, -box[:2] * zoom, method)

    return jax.vmap(one)(images, boxes.astype(images.dtype))


def draw_crops(
    rng: Array,
    images: Array,
    views: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    augment: Sequence[Augmentation],
) -> Array:
    """Several random crops of each image, `[b h w c] -> [v b size c]`, changed by the elements of `augment` in turn."""

    def view(index: int) -> Array:
        where, how = jax.random.split(jax.random.fold_in(rng, index))
        boxes = draw_boxes(where, len(images), images.shape[1:3], scale)
        return augment[index % len(augment)](how, crop(images, boxes, size))

    return jnp.stack([view(index) for index in range(views)])
