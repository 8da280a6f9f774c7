"""LeVJEPA, arXiv:2608.27395: LeJEPA for videos, with most patches left out.

vit-pytorch's `levjepa`: one large crop of a video and several small ones are encoded from a random twentieth of their
patches. Their projections are trained to that of the large crop and to a normal distribution (SIGReg). The encoder is
`vit_flax.models.levjepa.VideoTransformer`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal, zeros

from vit_flax.blocks import sigreg
from vit_flax.blocks.dropping import draw_patches
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.torch_like import BatchNorm, Dense, MeanSquareNorm, gelu
from vit_flax.models.levjepa import VideoTransformer as VideoTransformer
from vit_flax.objectives.objective import Objective
from vit_flax.objectives.views import VideoCrops

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


class LeVJEPALoss(Objective, kw_only=True):
    """LeVJEPA (arXiv:2608.27395): given views of videos, or of any other grid, to the loss.

    Attributes:
      encoder: `models.levjepa.VideoTransformer` or another that returns tokens, a class token first, and drops patches
        (`kept_patches`).
      num_classes_K: width of the projections that are compared.
      projection_hidden: hidden width of the projector.
      drop_ratio: fraction of the patches that is dropped in training.
      use_batch_norm: BatchNorm in the projector, else a norm of each vector.
      norm_fn: constructor of another norm; takes a name.
      use_weight_standardization: standardise the projector's first weights; see `StandardisedDense`.
      invariance_loss_weight: weight of the distance between views in the loss.
      sigreg_loss_weight: weight of SIGReg in the loss.
      sigreg_loss_kwargs: `num_proj` directions, compared at `knots` points.
      views_in_order: each input's views are compared with its own large one, as the paper means it. By default they are
        mixed as upstream mixes them.
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

    # Each video's views are compared with its own large one.
    PAPER: ClassVar[Mapping[str, Any]] = {'views_in_order': True}

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

    def draw(self, rng: Array, images: Array) -> dict[str, Array]:
        """Directions for SIGReg, `projections` `[s k]`."""
        del images
        return {'projections': sigreg.draw_projections(rng, self.num_classes_K, self.sigreg['num_proj'])}

    def draw_kept_patches(self, rng: Array, global_views: Array, local_views: Array) -> dict[str, Array]:
        """The patches to keep of these views: `kept_patches` int `[b+b*v kept]`."""
        views = global_views.shape[1] * (1 + local_views.shape[0])
        patches = math.prod(self.encoder.grid.shape_of(global_views[0]))
        return {'kept_patches': draw_patches(rng, views, patches, self.drop_ratio)}

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
        """Squared distance of the views' projections from the large one's, plus SIGReg of all, a scalar.

        Args:
          global_views: one for each input, `[1 b *grid c]`.
          local_views: `[v b *grid c]`, of the same size.
          projections: directions of SIGReg, `[s k]`, see `draw`.
          kept_patches: int `[b+b*v kept]`, the patches that the encoder gets, of the large views first, then of all
            others of the first input and so on; None keeps all.
          train: dropout and statistics.
          return_loss_breakdown: return the loss and its two parts, weighted.
        """
        if global_views.shape[0] != 1 or global_views.shape[1:] != local_views.shape[1:]:
            raise ValueError(
                f'global_views of shape {global_views.shape} must be one view of the shape of local_views, '
                f'{local_views.shape}'
            )
        batch, views = global_views.shape[1], len(local_views) + 1
        # The views of an image follow each other, so that a batch that is split over devices stays where it is.
        every = jnp.swapaxes(jnp.concatenate([global_views, local_views]), 0, 1).reshape(-1, *local_views.shape[2:])
        if kept_patches is not None:
            large, rest = kept_patches[:batch, None], kept_patches[batch:].reshape(batch, views - 1, -1)
            kept_patches = jnp.concatenate([large, rest], axis=1).reshape(batch * views, -1)
        tokens = self.encoder(every, train=train, kept_patches=kept_patches)
        projected = to_float32(self.projector(tokens[:, 0], train)).reshape(batch, views, -1)
        if not self.views_in_order:
            # upstream: the large views of all inputs come first in the batch, which is then taken apart as if each
            # input's views followed each other: with more than one input, views of different inputs are compared.
            large, rest = projected[:, 0], projected[:, 1:].reshape(batch * (views - 1), -1)
            projected = jnp.concatenate([large, rest]).reshape(batch, views, -1)
        invariance = ((projected - projected[:, :1]) ** 2).mean() * self.invariance_loss_weight
        sets = jnp.swapaxes(projected, 0, 1)
        regularisation = sigreg.sigreg_statistic(sets, projections, self.sigreg['knots']) * self.sigreg_loss_weight
        loss = invariance + regularisation
        return (loss, LeVJEPALosses(invariance, regularisation)) if return_loss_breakdown else loss

    def example_of(self, views: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        """So many views beside the large one, and directions, for tracing."""
        example = self.encoder.example_input()
        shapes = ((count, 2, *example.shape[1:]) for count in (1, views))
        directions = jax.ShapeDtypeStruct((self.sigreg['num_proj'], self.num_classes_K), jnp.float32)
        return *(jax.ShapeDtypeStruct(shape, example.dtype) for shape in shapes), directions

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views and directions that fit, for tracing."""
        return self.example_of(1)


class LeVJEPA(LeVJEPALoss, VideoCrops, kw_only=True):
    """LeVJEPA with vit-pytorch's constructor: the loss of `LeVJEPALoss`, views of `VideoCrops`, arguments of both."""

    @classmethod
    def paper(cls, encoder: nn.Module, image_size: int | Sequence[int] | None = None, **changes: Any) -> Self:
        """The paper's: each video's views are compared with its own large one."""
        return cls(encoder=encoder, image_size=image_size, **{'local_size': image_size, **cls.PAPER, **changes})

    def setup(self) -> None:
        super().setup()
        self.size(self.encoder.example_input().shape)

    def draw(self, rng: Array, videos: Array) -> dict[str, Array]:
        """Random crops of videos `[b t h w c]` with values from 0 to 1, patches to keep and directions for SIGReg.

        `global_views` `[1 b t h w c]`, `local_views` `[v b t h w c]`, `kept_patches`, `projections`.
        """
        for_views, for_patches, for_loss = jax.random.split(rng, 3)
        views = VideoCrops.draw(self, for_views, videos)
        kept = self.draw_kept_patches(for_patches, **views)
        return {**views, **kept, **LeVJEPALoss.draw(self, for_loss, videos)}

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views and directions that fit, for tracing."""
        return self.example_of(self.num_local_views)
