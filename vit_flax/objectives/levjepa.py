"""LeVJEPA, arXiv:2608.27395: LeJEPA for videos, with most patches left out.

vit-pytorch's `levjepa`: one large crop of a video and several small ones are encoded from a random
twentieth of their patches. Their projections are to agree with that of the large crop and to be
distributed normally (SIGReg). The encoder is `vit_flax.models.levjepa.VideoTransformer`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal, zeros

from vit_flax.blocks import sigreg
from vit_flax.blocks.checks import pair
from vit_flax.blocks.dropping import draw_patches
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.torch_like import BatchNorm, Dense, MeanSquareNorm, gelu
from vit_flax.models.levjepa import VideoTransformer as VideoTransformer
from vit_flax.objectives.views import Augmentation, crop, draw_boxes, photometric_augment

SIGREG = {'num_proj': 1024, 'knots': 17}


class StandardisedDense(Module):
    """Linear whose weights have mean zero and variance one for each output, `[... c] -> [... features]`."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        kernel = self.param('kernel', normal(width**-0.5), (width, self.features), self.param_dtype)
        bias = self.param('bias', zeros, (self.features,), self.param_dtype)
        x, kernel, bias = self.promote(x, kernel, bias)
        spread = jnp.sqrt(jnp.maximum(kernel.var(axis=0), 1e-4))
        return x @ ((kernel - kernel.mean(axis=0)) / spread) + bias


class Projector(Module):
    """Linear, norm, GELU, Linear, `[b d] -> [b k]`.

    Attributes:
      features: k.
      hidden: width between.
      norm: constructor of the norm; takes a name.
      standardised: see `StandardisedDense`.
    """

    features: int
    hidden: int
    norm: Callable[..., nn.Module]
    standardised: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        first = StandardisedDense if self.standardised else Dense
        x = first(self.hidden, **self.precision, name='expand')(x)
        norm = self.norm(**self.precision, name='norm')
        x = norm(x, train) if isinstance(norm, BatchNorm) else norm(x)
        return Dense(self.features, **self.precision, name='project')(gelu(x))

    torch_names = {'expand': '0', 'norm': '1', 'project': '3'}


class LeVJEPALosses(NamedTuple):
    """The two parts of the loss, weighted."""

    invariance_loss: Array
    sigreg_loss: Array


class VideoPredictionBase(Module, kw_only=True):
    """What LeVJEPA is for inputs of any kind: a projector, and the loss of one large view and several others.

    Attributes:
      encoder: `models.levjepa.VideoTransformer` or another that gives tokens, a class token first, and leaves
        patches out (`drop_ratio`, `kept_patches`).
      num_classes_K: width of the projections.
      projection_hidden: hidden width of the projector.
      drop_ratio: share of the patches that is left out in training.
      use_batch_norm: BatchNorm in the projector, else a norm of each vector.
      norm_fn: constructor of another norm; takes a name.
      use_weight_standardization: see `StandardisedDense`.
      invariance_loss_weight, sigreg_loss_weight: of the two parts.
      sigreg_loss_kwargs: `num_proj` directions, compared at `knots` places.
      views_in_order: each input's views are compared with its own large one, which is what the paper means. By
        default they are mixed as upstream mixes them.
    """

    encoder: Any
    num_classes_K: int = 256
    projection_hidden: int = 256
    drop_ratio: float = 0.95
    use_batch_norm: bool = True
    norm_fn: Callable[..., nn.Module] | None = None
    use_weight_standardization: bool = False
    invariance_loss_weight: float = 1.0
    sigreg_loss_weight: float = 0.02
    sigreg_loss_kwargs: Mapping[str, int] | None = None
    views_in_order: bool = False

    @property
    def sigreg(self) -> dict[str, int]:
        """`sigreg_loss_kwargs`, complete."""
        given = dict(self.sigreg_loss_kwargs or {})
        if unknown := given.keys() - SIGREG.keys():
            raise ValueError(f'sigreg_loss_kwargs has {sorted(unknown)}: it may have {sorted(SIGREG)}')
        return {**SIGREG, **given}

    def setup(self) -> None:
        norm = self.norm_fn or (BatchNorm if self.use_batch_norm else MeanSquareNorm)
        sizes = self.num_classes_K, self.projection_hidden, norm, self.use_weight_standardization
        self.projector = Projector(*sizes, **self.precision)

    def draw_rest(self, rng: Array, views: int, patches: int) -> dict[str, Array]:
        """What is drawn beside the views: `kept_patches` int `[views kept]`, `projections` `[s k]`."""
        keys = jax.random.split(rng)
        return {
            'kept_patches': draw_patches(keys[0], views, patches, self.drop_ratio),
            'projections': sigreg.draw_projections(keys[1], self.num_classes_K, self.sigreg['num_proj']),
        }

    def embed(self, x: Array, train: bool = False) -> Array:
        """The encoder's class token, `[b *grid c] -> [b d]`."""
        return self.encoder(x, train=train)[:, 0]

    def __call__(
        self,
        global_views: Array,
        local_views: Array,
        projections: Array,
        kept_patches: Array | None = None,
        train: bool = False,
        return_loss_breakdown: bool = False,
    ) -> Array | tuple[Array, LeVJEPALosses]:
        """How far the views are from the large one, and from a normal distribution, a scalar.

        Args:
          global_views: one for each input, `[1 b *grid c]`. See `draw`.
          local_views: `[v b *grid c]`, of the same size.
          projections: directions of SIGReg, `[s k]`.
          kept_patches: int `[b+b*v kept]`, the patches that are read, of the large views first, then of all others
            of the first input and so on; None reads all.
          train: dropout and statistics.
          return_loss_breakdown: return the loss and its two parts, weighted.
        """
        if global_views.shape[0] != 1 or global_views.shape[1:] != local_views.shape[1:]:
            raise ValueError(
                f'global_views of shape {global_views.shape} must be one view of the shape of local_views, '
                f'{local_views.shape}'
            )
        batch, views = global_views.shape[1], len(local_views) + 1
        local = jnp.swapaxes(local_views, 0, 1).reshape(-1, *local_views.shape[2:])
        every = jnp.concatenate([global_views[0], local])
        tokens = self.encoder(every, train=train, kept_patches=kept_patches)
        projected = to_float32(self.projector(tokens[:, 0], train))
        if self.views_in_order:
            local = projected[batch:].reshape(batch, views - 1, -1)
            projected = jnp.concatenate([projected[:batch, None], local], axis=1)
        else:
            # upstream: the large views of all inputs come first in the batch, which is then taken apart as if each
            # input's views followed each other: with more than one input, views of different inputs are compared.
            projected = projected.reshape(batch, views, -1)
        apart = ((projected - projected[:, :1]) ** 2).mean() * self.invariance_loss_weight
        sets = jnp.swapaxes(projected, 0, 1)
        odd = sigreg.sigreg_statistic(sets, projections, self.sigreg['knots']) * self.sigreg_loss_weight
        return (apart + odd, LeVJEPALosses(apart, odd)) if return_loss_breakdown else apart + odd

    def example_views(self, views: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views and directions that fit, for tracing."""
        example = self.encoder.example_input()
        shapes = ((count, 2, *example.shape[1:]) for count in (1, views))
        directions = jax.ShapeDtypeStruct((self.sigreg['num_proj'], self.num_classes_K), jnp.float32)
        return *(jax.ShapeDtypeStruct(shape, example.dtype) for shape in shapes), directions


class LeVJEPA(VideoPredictionBase, kw_only=True):
    """LeVJEPA (arXiv:2608.27395): views of videos to the loss. For the other arguments see `VideoPredictionBase`.

    Attributes:
      image_size: height and width of the large views in pixels, or one number for both.
      local_size: of the small ones; must be the same, since all are encoded together.
      num_local_views: small crops of each video.
      local_crop_scale, global_crop_scale: smallest and largest share of a frame's area in a crop.
      local_augment_fn, global_augment_fn: `(rng, videos) -> videos`, values from 0 to 1; None is mirror, jitter and
        grey for the small crops (`views.photometric_augment`) and nothing for the large ones.
      crop_ratio_range: smallest and largest width over height of a crop.
    """

    image_size: int | Sequence[int]
    local_size: int | Sequence[int] = 96
    num_local_views: int = 4
    local_crop_scale: tuple[float, float] = (0.02, 0.4)
    global_crop_scale: tuple[float, float] = (0.8, 1.0)
    local_augment_fn: Augmentation | None = None
    global_augment_fn: Augmentation | None = None
    crop_ratio_range: tuple[float, float] = (0.75, 1.3333)

    @classmethod
    def paper(cls, encoder: nn.Module, image_size: int | Sequence[int], **changes: Any) -> 'LeVJEPA':
        """The paper's: each video's views are compared with its own large one."""
        return cls(
            encoder=encoder, image_size=image_size, **{'local_size': image_size, 'views_in_order': True, **changes}
        )

    def setup(self) -> None:
        super().setup()
        if pair(self.local_size, 'local_size') != pair(self.image_size, 'image_size'):
            raise ValueError(
                f'local_size={self.local_size} must equal image_size={self.image_size}: all views are encoded together'
            )

    def draw(self, rng: Array, videos: Array) -> dict[str, Array]:
        """Random crops of videos `[b t h w c]` with values from 0 to 1, patches to keep and directions for SIGReg.

        `global_views` `[1 b t h w c]`, `local_views` `[v b t h w c]`, `kept_patches`, `projections`. Upstream, which
        crops the whole batch at the same place, also subtracts ImageNet's mean: here that is left to the caller.
        """
        keys = jax.random.split(rng, self.num_local_views + 2)

        def view(key: Array, scale: tuple[float, float], augment: Augmentation | None) -> Array:
            where, how = jax.random.split(key)
            batch, frames, *size = videos.shape[:4]
            boxes = draw_boxes(where, batch, tuple(size), scale, self.crop_ratio_range)
            pictures = videos.reshape(-1, *videos.shape[2:])
            cut = crop(pictures, jnp.repeat(boxes, frames, axis=0), pair(self.image_size, 'image_size'), 'cubic')
            cut = cut.reshape(batch, frames, *cut.shape[1:])
            return cut if augment is None else augment(how, cut)

        local = self.local_augment_fn or photometric_augment
        patch_rows, patch_columns = pair(self.encoder.patch_size)
        height, width = pair(self.image_size, 'image_size')
        patches = videos.shape[1] * (height // patch_rows) * (width // patch_columns)
        return {
            'global_views': view(keys[0], self.global_crop_scale, self.global_augment_fn)[None],
            'local_views': jnp.stack([view(key, self.local_crop_scale, local) for key in keys[1:-1]]),
            **self.draw_rest(keys[-1], len(videos) * (1 + self.num_local_views), patches),
        }

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views and directions that fit, for tracing."""
        return self.example_views(self.num_local_views)
