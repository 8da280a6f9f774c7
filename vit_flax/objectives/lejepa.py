"""LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics, arXiv:2511.08544.

vit-pytorch's `lejepa`: crops of an image are trained to the same embedding, and the embeddings of a batch to a normal
distribution (SIGReg), which alone prevents collapse: there is no teacher, no centring and no schedule. With an averaged
target encoder in the place of SIGReg it is a BYOL without predictor.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks import sigreg
from vit_flax.blocks.averages import mean_of_each
from vit_flax.blocks.precision import to_float32
from vit_flax.objectives.augment import dino_augment
from vit_flax.objectives.monitors import spread, watch
from vit_flax.objectives.objective import Objective, Variables
from vit_flax.objectives.projection import ProjectedNet, of_views
from vit_flax.objectives.teacher import PARAMS, apply_teacher, copy_of_student, follow_student
from vit_flax.objectives.views import MultiCrop

SIGREG = {'num_slices': 1024, 'domain': (-5, 5), 'num_knots': 17}


class LeJEPALoss(Objective, kw_only=True):
    """LeJEPA (arXiv:2511.08544): given views of images to the loss.

    Attributes:
      net: the network to train. Its variables are under `encoder`.
      hidden_layer: layer of the network that is projected: the path of a submodule or a tap, -1 for the output, -2 for
        the input of the head.
      projection_hidden_size: width of the projector's hidden layers.
      num_classes_K: width of the projections that are compared.
      projection_layers: number of the projector's layers, at least 2.
      use_ema: encode large crops with a moving average of the encoder, a teacher called `target`; None is the opposite
        of `use_sigreg`, or else whether `moving_average_decay` is given.
      moving_average_decay: EMA decay of the target encoder; None is 0.99.
      use_sigreg: regularise the embeddings to a normal distribution; None is the opposite of `use_ema`.
      target_loss_weight: weight of the prediction in the loss.
      sigreg_loss_weight: weight of SIGReg in the loss.
      sigreg_loss_kwargs: `num_slices` directions, compared at `num_knots` points of `domain`.
      predict_mean: all views, large ones too, predict the mean of the large ones, through which gradients flow, and
        SIGReg takes all of them and grows with the batch, as in the paper; else each small crop predicts the large one
        of another index.
      average_places: project the mean of a feature map over its positions; upstream projects all of it.
    """

    net: Any
    hidden_layer: int | str = -2
    projection_hidden_size: int = 256
    num_classes_K: int = 65336
    projection_layers: int = 4
    use_ema: bool | None = None
    moving_average_decay: float | None = None
    use_sigreg: bool | None = None
    target_loss_weight: float = 1.0
    sigreg_loss_weight: float = 1.0
    sigreg_loss_kwargs: Mapping[str, Any] | None = None
    predict_mean: bool = False
    average_places: bool = False

    encoder_argument: ClassVar[str] = 'net'
    students: ClassVar[Mapping[str, str]] = {'target': 'online'}
    # Section 6.1: lambda 0.05, 1,024 slices, 17 knots.
    PAPER: ClassVar[Mapping[str, Any]] = dict(
        num_classes_K=128,
        projection_hidden_size=2048,
        projection_layers=3,
        target_loss_weight=0.95,
        sigreg_loss_weight=0.05,
        predict_mean=True,
        average_places=True,
    )

    @classmethod
    def paper(cls, net: nn.Module, **changes: Any) -> Self:
        """The paper's loss (section 6.1): lambda 0.05, 1,024 slices, 17 knots."""
        return cls(net=net, **{**cls.PAPER, **changes})

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
        settings = {**self.precision, 'average_places': self.average_places}
        self.encoder = self.net.clone(_deep_clone=True)
        self.online = ProjectedNet(self.encoder, self.hidden_layer, *sizes, **settings)
        if self.averages:
            if self.predict_mean:
                raise ValueError('predict_mean=True has no target encoder: leave use_ema and moving_average_decay away')
            self.target = ProjectedNet(self.net.clone(_deep_clone=True), self.hidden_layer, *sizes, **settings)

    def draw(self, rng: Array, images: Array) -> dict[str, Array]:
        """Directions for SIGReg, `projections` `[s d]`, where it is part of the loss."""
        del images
        if not self.regularises:
            return {}
        return {'projections': sigreg.draw_projections(rng, self.num_classes_K, self.sigreg['num_slices'])}

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to the encoder's (projection `[b k]`, embedding `[b d]`)."""
        return self.online(images, train)

    def __call__(
        self, global_views: Array, local_views: Array, projections: Array | None = None, train: bool = False
    ) -> Array:
        """The mean of `losses` over the batch, a scalar.

        Args:
          global_views: large crops `[2 b h w c]`.
          local_views: small crops `[v b h w c]`.
          projections: directions of SIGReg, `[s d]`, see `draw`.
          train: dropout and statistics.
        """
        return self.losses(global_views, local_views, projections, train).mean()

    def losses(
        self,
        global_views: Array,
        local_views: Array,
        projections: Array | None = None,
        train: bool = False,
        weights: Array | None = None,
    ) -> Array:
        """Squared distance between the projections of an image's views, plus SIGReg of the batch, `[b]`.

        Args:
          global_views, local_views, projections, train: as for the call.
          weights: `[b]`, how much each image counts in SIGReg, such as 0 for padding; None counts all alike.
        """
        local, _ = of_views(self.online, local_views, train, False)
        if self.averages:
            large, _ = apply_teacher(of_views, self.target, global_views, train, False, dtype=self.param_dtype)
            if self.is_initializing():
                self.put_variable(PARAMS, 'target', copy_of_student(self.variables['params'], 'online'))
        else:
            large, _ = of_views(self.online, global_views, train, False)
        local, large = to_float32(local), to_float32(large)
        watch(self, 'projection_std', spread(large, weights))
        if self.predict_mean:
            views = jnp.concatenate([large, local])
            losses = ((views - large.mean(axis=0)) ** 2).mean(axis=(0, 2))
        else:
            views, large = local, jax.lax.stop_gradient(large)
            # upstream: the two pairs of views are added, not averaged.
            pairs = [mean_of_each((local[s] - large[t]) ** 2) for t in range(2) for s in range(len(local)) if s != t]
            losses = 2 * jnp.stack(pairs).mean(axis=0)
        losses = losses * self.target_loss_weight
        if not self.regularises:
            return losses
        if projections is None:
            raise ValueError('projections=None must be the directions of SIGReg [s d]: take them from `draw`')
        return losses + self.regularisation(views, projections, weights) * self.sigreg_loss_weight

    def regularisation(self, views: Array, projections: Array, weights: Array | None) -> Array:
        """SIGReg of the projections of views `[v b k]`, a scalar."""
        settings = {name: value for name, value in self.sigreg.items() if name != 'num_slices'}
        if not self.predict_mean:
            # upstream: not multiplied by the number of vectors, as the paper's statistic is: with the paper's weight of
            # 0.05 the embeddings collapse.
            return sigreg.sigreg_loss(views, projections, **settings, weights=weights)
        # each view by itself, as the paper's algorithm 1; what is weighed there is a test statistic, which grows with
        # the number of vectors
        of_views = [sigreg.sigreg_loss(view, projections, **settings, weights=weights) for view in views]
        return jnp.stack(of_views).mean() * (views.shape[1] if weights is None else weights.sum())

    def post_update(self, variables: Variables, decay: float | Array | None = None) -> dict[str, Any]:
        """After a step of the optimizer: updates the target encoder, if there is one.

        Args:
          variables: of the objective, parameters updated.
          decay: where it follows a schedule; None is `moving_average_decay`.
        """
        if not self.averages:
            return dict(variables)
        default = 0.99 if self.moving_average_decay is None else self.moving_average_decay
        return follow_student(variables, 'target', 'online', default if decay is None else decay)

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views and directions that fit, for tracing."""
        return self.example_of(MultiCrop())

    def example_of(self, views: MultiCrop) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Such views and directions."""
        shapes = views.shapes(self.net.example_input())
        if not self.regularises:
            return shapes
        return *shapes, jax.ShapeDtypeStruct((self.sigreg['num_slices'], self.num_classes_K), jnp.float32)

    torch_names = {'encoder': 'net', 'online': 'encoder', 'target': 'target_encoder'}
    torch_ties = {'encoder': lambda objective: ['encoder.net']}


# Section 6.1 of the paper: two large crops and six small ones.
PAPER_VIEWS = MultiCrop(
    num_local_views=6,
    local_upper_crop_scale=0.3,
    global_lower_crop_scale=0.3,
    augment_fn=partial(dino_augment, blurred=0.5, solarised=0.2),
    augment_fn2=partial(dino_augment, blurred=0.5, solarised=0.2),
)


class LeJEPA(LeJEPALoss, MultiCrop, kw_only=True):
    """LeJEPA with vit-pytorch's constructor: the loss of `LeJEPALoss`, views of `MultiCrop`, the arguments of both."""

    @classmethod
    def paper(cls, net: nn.Module, image_size: int | Sequence[int] | None = None, **changes: Any) -> Self:
        """The paper's (section 6.1): two large and six small crops, lambda 0.05, 1,024 slices, 17 knots."""
        return cls(net=net, **{**cls.PAPER, **vars(PAPER_VIEWS), 'image_size': image_size, **changes})

    def draw(self, rng: Array, images: Array) -> dict[str, Array]:
        """Random crops of images with values from 0 to 1, and directions for SIGReg.

        `global_views` `[2 b h w c]`, `local_views` `[v b h w c]`, `projections` `[s d]`.
        """
        for_views, for_loss = jax.random.split(rng)
        return {**MultiCrop.draw(self, for_views, images), **LeJEPALoss.draw(self, for_loss, images)}

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views and directions that fit, for tracing."""
        return self.example_of(self)
