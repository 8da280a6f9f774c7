"""LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics, arXiv:2511.08544.

vit-pytorch's `lejepa`: crops of an image are to have the same embedding, and the embeddings of a
batch are to be distributed normally (SIGReg), which alone keeps them from collapsing: no teacher, no
centres, no schedules. With an averaged target encoder in the place of SIGReg it is a BYOL without predictor.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks import sigreg
from vit_flax.blocks.checks import pair
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.objectives.monitors import spread, watch
from vit_flax.objectives.projection import ProjectedNet, in_collection, moved, of_views
from vit_flax.objectives.views import Augmentation, byol_augment, dino_augment, draw_crops

SIGREG = {'num_slices': 1024, 'domain': (-5, 5), 'num_knots': 17}


class LeJEPA(Module, kw_only=True):
    """LeJEPA (arXiv:2511.08544): views of images to the loss.

    Attributes:
      net: the network to train. Its variables stand under `encoder`.
      image_size: height and width of the views in pixels, or one number for both.
      hidden_layer: which layer of the network is projected; see `projection.layer_output`.
      projection_hidden_size, projection_layers: of the projector.
      num_classes_K: width of the projections.
      local_upper_crop_scale: largest share of an image's area in a small crop; the smallest is 0.05.
      global_lower_crop_scale: smallest share in a large crop.
      use_ema: large crops are seen by an average of the encoder's past, in the collection `target`; None is the
        opposite of `use_sigreg`, or else whether `moving_average_decay` is given.
      moving_average_decay: of that average; None is 0.99.
      use_sigreg: whether the embeddings are to be normally distributed; None is the opposite of `use_ema`.
      target_loss_weight, sigreg_loss_weight: of the two parts of the loss.
      sigreg_loss_kwargs: `num_slices` directions, compared at `num_knots` places of `domain`.
      augment_fn, augment_fn2: `(rng, images) -> images`, what happens to crops with even and odd numbers, values from
        0 to 1; None is upstream's mixture of jitter, grey, mirror and blur (`views.byol_augment`).
      num_local_views: small crops of each image.
      local_size: height and width of the small crops, for networks that take several sizes; None is `image_size`.
      predict_mean: all views, large ones too, predict the mean of the large ones, through which gradients flow, and
        SIGReg sees all and grows with the batch, as in the paper; else each small crop predicts the large one of
        another number.
      average_places: project the mean of a network's feature map; upstream projects all of it.
    """

    net: Any
    image_size: int | Sequence[int]
    hidden_layer: str | int = -2
    projection_hidden_size: int = 256
    num_classes_K: int = 65336
    projection_layers: int = 4
    local_upper_crop_scale: float = 0.4
    global_lower_crop_scale: float = 0.5
    use_ema: bool | None = None
    moving_average_decay: float | None = None
    use_sigreg: bool | None = None
    target_loss_weight: float = 1.0
    sigreg_loss_weight: float = 1.0
    sigreg_loss_kwargs: Mapping[str, Any] | None = None
    augment_fn: Augmentation | None = None
    augment_fn2: Augmentation | None = None
    num_local_views: int = 2
    local_size: int | Sequence[int] | None = None
    predict_mean: bool = False
    average_places: bool = False

    @classmethod
    def paper(cls, net: nn.Module, image_size: int | Sequence[int], **changes: Any) -> 'LeJEPA':
        """The paper's (section 6.1): two large and six small crops, lambda 0.05, 1,024 slices, 17 knots."""
        settings = dict(
            num_classes_K=128,
            projection_hidden_size=2048,
            projection_layers=3,
            local_upper_crop_scale=0.3,
            global_lower_crop_scale=0.3,
            target_loss_weight=0.95,
            sigreg_loss_weight=0.05,
            num_local_views=6,
            augment_fn=partial(dino_augment, blurred=0.5, solarised=0.2),
            augment_fn2=partial(dino_augment, blurred=0.5, solarised=0.2),
            predict_mean=True,
            average_places=True,
        )
        return cls(net=net, image_size=image_size, **{**settings, **changes})

    @property
    def averages(self) -> bool:
        """Whether there is a target encoder."""
        if self.use_ema is not None:
            return self.use_ema
        return self.moving_average_decay is not None if self.use_sigreg is None else not self.use_sigreg

    @property
    def regularises(self) -> bool:
        """Whether SIGReg is part of the loss."""
        wanted = not self.averages if self.use_sigreg is None else self.use_sigreg
        return wanted and self.sigreg_loss_weight > 0

    @property
    def sigreg(self) -> dict[str, Any]:
        """`sigreg_loss_kwargs`, complete."""
        given = dict(self.sigreg_loss_kwargs or {})
        if unknown := given.keys() - SIGREG.keys():
            raise ValueError(f'sigreg_loss_kwargs has {sorted(unknown)}: it may have {sorted(SIGREG)}')
        return {**SIGREG, **given}

    def setup(self) -> None:
        sizes = self.num_classes_K, self.projection_layers, self.projection_hidden_size
        self.encoder = self.net.clone(_deep_clone=True)
        settings = {**self.precision, 'average_places': self.average_places}
        self.online = ProjectedNet(self.encoder, self.hidden_layer, *sizes, **settings)
        if self.averages:
            if self.predict_mean:
                raise ValueError('predict_mean=True has no target encoder: leave use_ema and moving_average_decay away')
            target = in_collection('target', ProjectedNet, self.param_dtype)
            self.target = target(self.net.clone(_deep_clone=True), self.hidden_layer, *sizes, **settings)

    def draw(self, rng: Array, images: Array) -> dict[str, Array]:
        """Random crops of images with values from 0 to 1, and directions for SIGReg.

        `global_views` `[2 b h w c]`, `local_views` `[v b h w c]`, `projections` `[s d]`. Upstream, which crops the
        whole batch at the same place, also subtracts ImageNet's mean: here that is left to the caller.
        """
        augment = self.augment_fn or byol_augment, self.augment_fn2 or byol_augment
        sizes = pair(self.image_size, 'image_size'), pair(self.local_size or self.image_size)
        rngs = jax.random.split(rng, 3)
        small, large = (0.05, self.local_upper_crop_scale), (self.global_lower_crop_scale, 1.0)
        views = {
            'global_views': draw_crops(rngs[0], images, 2, sizes[0], large, augment),
            'local_views': draw_crops(rngs[1], images, self.num_local_views, sizes[1], small, augment),
        }
        if self.regularises:
            views['projections'] = sigreg.draw_projections(rngs[2], self.num_classes_K, self.sigreg['num_slices'])
        return views

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to the encoder's (projection `[b k]`, embedding `[b d]`)."""
        return self.online(images, train)

    def __call__(
        self, global_views: Array, local_views: Array, projections: Array | None = None, train: bool = False
    ) -> Array:
        """How far apart the projections of views are, and how far from normal, a scalar.

        Args:
          global_views: large crops `[2 b h w c]`. See `draw`.
          local_views: small crops `[v b h w c]`.
          projections: directions of SIGReg, `[s d]`.
          train: dropout and statistics.
        """
        local, _ = of_views(self.online, local_views, train, False)
        target = self.target if self.averages else self.online
        large, _ = of_views(target, global_views, train, False)
        if self.averages and self.is_initializing():
            self.put_variable('target', 'target', self.as_target(self.variables['params']))
        local, large = to_float32(local), to_float32(large)
        watch(self, 'projection_std', spread(large))
        if self.predict_mean:
            views = jnp.concatenate([large, local])
            loss = ((views - large.mean(axis=0)) ** 2).mean()
        else:
            views, large = local, jax.lax.stop_gradient(large)
            # upstream: the two pairs of views are added, not averaged.
            pairs = [((local[s] - large[t]) ** 2).mean() for t in range(2) for s in range(len(local)) if s != t]
            loss = 2 * jnp.stack(pairs).mean()
        loss = loss * self.target_loss_weight
        if not self.regularises:
            return loss
        if projections is None:
            raise ValueError('projections=None must be the directions of SIGReg [s d]: take them from `draw`')
        settings = {name: value for name, value in self.sigreg.items() if name != 'num_slices'}
        if self.predict_mean:
            # each view by itself, as the paper's algorithm 1; what is weighed there is a test statistic, which grows
            # with the number of vectors
            apart = jnp.stack([sigreg.sigreg_loss(view, projections, **settings) for view in views]).mean()
            apart = apart * views.shape[1]
        else:
            # upstream: not multiplied by the number of vectors, as the paper's statistic is: with the paper's weight of
            # 0.05 the embeddings collapse.
            apart = sigreg.sigreg_loss(views, projections, **settings)
        return loss + apart * self.sigreg_loss_weight

    def as_target(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The encoder's parameters as the target's copy has them."""
        return jax.tree.map(to_float32, {'net': params['encoder'], **params['online']})

    def post_update(self, variables: Mapping[str, Any], decay: float | Array | None = None) -> dict[str, Any]:
        """After a step of the optimizer: moves the target encoder, if there is one, towards the encoder.

        Args:
          variables: of the objective, parameters updated.
          decay: where it follows a schedule; None is `moving_average_decay`.
        """
        if not self.averages:
            return dict(variables)
        default = 0.99 if self.moving_average_decay is None else self.moving_average_decay
        decay = default if decay is None else decay
        target = moved(variables['target']['target'], self.as_target(variables['params']), decay)
        return {**variables, 'target': {'target': target}}

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views and directions that fit, for tracing."""
        example = self.net.example_input()
        sizes = pair(self.image_size, 'image_size'), pair(self.local_size or self.image_size)
        views = tuple(
            jax.ShapeDtypeStruct((count, 2, *size, example.shape[-1]), example.dtype)
            for count, size in zip((2, self.num_local_views), sizes, strict=True)
        )
        if not self.regularises:
            return views
        return *views, jax.ShapeDtypeStruct((self.sigreg['num_slices'], self.num_classes_K), jnp.float32)

    torch_names = {'encoder': 'net', 'online': 'encoder', 'target': 'target_encoder'}
    torch_ties = {'encoder': lambda objective: ['encoder.net']}
