"""Emerging Properties in Self-Supervised Vision Transformers (DINO), arXiv:2104.14294.

vit-pytorch's `dino`: from small crops of an image a student predicts the distribution over prototypes that a teacher,
an exponential moving average of the student, assigns to large crops. The teacher's output is centred and sharpened,
which keeps it from collapsing to the same distribution for all images.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.averages import mean_of_each
from vit_flax.blocks.precision import to_float32
from vit_flax.objectives.augment import dino_augment
from vit_flax.objectives.monitors import entropy, spread, watch
from vit_flax.objectives.objective import Objective, Variables, encoder_variables
from vit_flax.objectives.projection import ProjectedNet, of_views
from vit_flax.objectives.teacher import (
    PARAMS,
    PREFIX,
    apply_teacher,
    copy_of_student,
    ema_update,
    follow_student,
    teacher_variables,
)
from vit_flax.objectives.views import MultiCrop


class SelfDistillation(Objective, kw_only=True):
    """What the losses of DINO and EsViT share: a student, the teacher that follows it, and centres.

    Attributes:
      net: the network to train. Its variables are under `encoder`, those of the teacher's copy in the collections of a
        teacher (`vit_flax.objectives.teacher`).
      hidden_layer: layer of the network that is projected: the path of a submodule or a tap, -1 for the output, -2 for
        the input of the head.
      projection_hidden_size: width of the projector's hidden layers.
      projection_layers: number of the projector's layers, at least 2.
      num_classes_K: number of prototypes, the width of the projection.
      student_temp: temperature of the student's softmax; lower is sharper.
      teacher_temp: temperature of the teacher's softmax; lower is sharper.
      moving_average_decay: EMA decay of the teacher.
      center_moving_average_decay: EMA decay of the centres.
      student_sees_global: whether the student gets the large crops too, as in the paper.
      projection_bottleneck: width of the unit vectors that are compared with the prototypes, as in the paper; None is
        upstream's projector, without a bottleneck.
    """

    net: Any
    hidden_layer: int | str = -2
    projection_hidden_size: int = 256
    num_classes_K: int = 65336
    projection_layers: int = 4
    student_temp: float = 0.9
    teacher_temp: float = 0.04
    moving_average_decay: float = 0.9
    center_moving_average_decay: float = 0.9
    student_sees_global: bool = False
    projection_bottleneck: int | None = None

    encoder_argument: ClassVar[str] = 'net'
    students: ClassVar[Mapping[str, str]] = {'teacher': 'student'}
    # Outputs of the teacher that have a centre.
    centred: ClassVar[tuple[str, ...]]
    # Section 3 and appendix C of DINO's paper, which EsViT's follows.
    PAPER: ClassVar[Mapping[str, Any]] = dict(
        num_classes_K=65536,
        projection_hidden_size=2048,
        projection_layers=3,
        projection_bottleneck=256,
        student_temp=0.1,
        teacher_temp=0.04,
        moving_average_decay=0.996,
        student_sees_global=True,
    )

    @classmethod
    def paper(cls, net: nn.Module, **changes: Any) -> Self:
        """The paper's loss; its schedules and views are the caller's."""
        return cls(net=net, **{**cls.PAPER, **changes})

    def projected(self, net: nn.Module) -> nn.Module:
        """A network with its projectors."""
        raise NotImplementedError

    @property
    def projection(self) -> dict[str, Any]:
        """Arguments of the projectors."""
        return dict(
            layer=self.hidden_layer,
            features=self.num_classes_K,
            layers=self.projection_layers,
            hidden=self.projection_hidden_size,
            bottleneck=self.projection_bottleneck,
            **self.precision,
        )

    def setup(self) -> None:
        self.encoder = self.net.clone(_deep_clone=True)
        self.student = self.projected(self.encoder)
        self.teacher = self.projected(self.net.clone(_deep_clone=True))
        shape, dtype = (1, self.num_classes_K), jnp.promote_types(self.param_dtype, jnp.float32)
        self.centers = {
            name: self.variable('centers', name, jnp.zeros, shape, dtype)
            for one in self.centred
            for name in (f'teacher_{one}', f'last_teacher_{one}')
        }

    def outputs(
        self, global_views: Array, local_views: Array, train: bool, weights: Array | None
    ) -> tuple[list[Any], Any]:
        """The student's output for each view, trees of `[b ...]`, and the teacher's for the large ones, `[v b ...]`."""
        statistics = self.has_variable(f'{PREFIX}batch_stats', 'teacher') and self.is_mutable_collection('batch_stats')
        inputs = [local_views]
        if self.student_sees_global:
            same = global_views.shape[1:] == local_views.shape[1:] and not statistics
            inputs = [jnp.concatenate([global_views, local_views])] if same else [global_views, local_views]
        # Feature maps of views of different sizes have different shapes.
        student = [
            jax.tree.map(lambda x, i=i: x[i], output)
            for views in inputs
            for output in [of_views(self.student, views, train, statistics)]
            for i in range(len(views))
        ]
        teacher = apply_teacher(of_views, self.teacher, global_views, train, statistics, dtype=self.param_dtype)
        stds = [spread(to_float32(projection), weights) for projection, *_ in student]
        watch(self, 'projection_std', jnp.stack(stds).mean())
        if self.is_initializing():
            self.put_variable(PARAMS, 'teacher', copy_of_student(self.variables['params'], 'student'))
        return student, teacher

    def teacher_probabilities(self, name: str, logits: Array, temperature: float | Array | None) -> Array:
        """Centred and sharpened probabilities, `[v b ... k]`; the mean of the logits is kept for the next centre."""
        logits = to_float32(logits)
        if self.is_mutable_collection('centers'):
            last = self.centers[f'last_teacher_{name}']
            last.value = logits.reshape(-1, logits.shape[-1]).mean(axis=0, keepdims=True).astype(last.value.dtype)
        temperature = self.teacher_temp if temperature is None else temperature
        center = self.centers[f'teacher_{name}'].value
        probabilities = jax.nn.softmax((logits - center) / temperature)
        watch(self, name.replace('centers', 'center_norm'), jnp.linalg.norm(center))
        entropies = mean_of_each(jnp.moveaxis(entropy(probabilities), 1, 0))
        watch(self, f'teacher_{name.replace("centers", "entropy")}', entropies)
        return probabilities

    def __call__(
        self,
        global_views: Array,
        local_views: Array,
        train: bool = False,
        student_temp: float | Array | None = None,
        teacher_temp: float | Array | None = None,
    ) -> Array:
        """The mean of `losses` over the batch, a scalar.

        Args:
          global_views: large crops `[2 b h w c]`, the teacher's input.
          local_views: small crops `[v b h w c]`. View i of the teacher is not compared with view i of the student.
          train: dropout and statistics.
          student_temp, teacher_temp: in this call.
        """
        return self.losses(global_views, local_views, train, student_temp, teacher_temp).mean()

    def losses(
        self,
        global_views: Array,
        local_views: Array,
        train: bool = False,
        student_temp: float | Array | None = None,
        teacher_temp: float | Array | None = None,
        weights: Array | None = None,
    ) -> Array:
        """The loss of each image, `[b]`; `weights` `[b]`, such as 0 for padding, are for what is monitored."""
        raise NotImplementedError

    def post_update(self, variables: Variables, decay: float | Array | None = None) -> dict[str, Any]:
        """After a step of the optimizer: updates the moving averages, which are the teacher and the centres.

        Args:
          variables: of the objective, parameters updated.
          decay: of the teacher, where it follows a schedule; None is `moving_average_decay`.
        """
        decay = self.moving_average_decay if decay is None else decay
        # upstream: statistics of BatchNorm in the teacher are its own, not averages of the student's.
        variables = follow_student(variables, 'teacher', 'student', decay)
        centers = dict(variables['centers'])
        for name in self.centred:
            old, last = centers[f'teacher_{name}'], centers[f'last_teacher_{name}']
            centers[f'teacher_{name}'] = ema_update(old, last, self.center_moving_average_decay)
        return {**variables, 'centers': centers}

    @classmethod
    def network(cls, variables: Variables) -> dict[str, Any]:
        """The teacher's, which is what the paper evaluates."""
        return encoder_variables(teacher_variables(variables), 'net')

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views that fit, for tracing."""
        return MultiCrop().shapes(self.net.example_input())

    torch_names = {'encoder': 'net', 'student': 'student_encoder', 'teacher': 'teacher_encoder'}
    torch_ties = {'encoder': lambda objective: ['student_encoder.net']}


def mean_over_pairs(loss: Callable[[Any, Any], Array], teacher: Any, student: Sequence[Any]) -> Array:
    """Mean loss of each of the teacher's views with each of the student's but the one of the same number, `[b]`.

    Args:
      loss: of a view of the teacher and one of the student, `[b]`.
      teacher: a tree of arrays whose first axis runs over the views.
      student: a tree of arrays for each view.
    """
    losses = [
        loss(jax.tree.map(lambda x, t=t: x[t], teacher), view)
        for t in range(len(jax.tree.leaves(teacher)[0]))
        for s, view in enumerate(student)
        if t != s
    ]
    return jnp.stack(losses).mean(axis=0)


def cross_entropy(probabilities: Array, log_probabilities: Array) -> Array:
    """Of the teacher's probabilities and the student's log-probabilities, `[b ... k], [b ... k] -> [b]`."""
    return mean_of_each(-(probabilities * log_probabilities).sum(axis=-1))


class DinoLoss(SelfDistillation, kw_only=True):
    """DINO (arXiv:2104.14294): given views of images to the loss. For the other arguments see `SelfDistillation`.

    Attributes:
      average_places: project the mean of a feature map over its positions, as in the paper; upstream projects all of
        it.
    """

    average_places: bool = False

    centred: ClassVar[tuple[str, ...]] = ('centers',)
    PAPER: ClassVar[Mapping[str, Any]] = {**SelfDistillation.PAPER, 'average_places': True}

    def projected(self, net: nn.Module) -> ProjectedNet:
        return ProjectedNet(net, average_places=self.average_places, **self.projection)

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to the student's (projection `[b k]`, embedding `[b d]`)."""
        return self.student(images, train)

    def losses(
        self,
        global_views: Array,
        local_views: Array,
        train: bool = False,
        student_temp: float | Array | None = None,
        teacher_temp: float | Array | None = None,
        weights: Array | None = None,
    ) -> Array:
        """Teacher-student cross-entropy averaged over view pairs, `[b]`; arguments as for the call."""
        student, (teacher, _) = self.outputs(global_views, local_views, train, weights)
        probabilities = self.teacher_probabilities('centers', teacher, teacher_temp)
        temperature = self.student_temp if student_temp is None else student_temp
        predicted = [jax.nn.log_softmax(to_float32(logits) / temperature) for logits, _ in student]
        return mean_over_pairs(cross_entropy, probabilities, predicted)


# Section 3 and appendix C of the paper: two large crops and eight small ones.
PAPER_VIEWS = MultiCrop(
    num_local_views=8,
    global_lower_crop_scale=0.4,
    augment_fn=partial(dino_augment, blurred=1.0),
    augment_fn2=partial(dino_augment, blurred=0.1, solarised=0.2),
    local_augment_fn=partial(dino_augment, blurred=0.5),
)


class Dino(DinoLoss, MultiCrop, kw_only=True):
    """DINO with vit-pytorch's constructor: the loss of `DinoLoss`, the views of `MultiCrop`, the arguments of both.

    `dino.apply(variables, **dino.draw(rng, images))` is the loss of new views of images with values from 0 to 1.
    """

    @classmethod
    def paper(cls, net: nn.Module, image_size: int | Sequence[int] | None = None, **changes: Any) -> Self:
        """The paper's (section 3 and appendix C): 65,536 prototypes, temperatures 0.1 and 0.04, ten views.

        Its schedules are the caller's: the teacher's temperature rises to 0.07 in the first epochs, its decay from
        0.996 to 1, the weight decay from 0.04 to 0.4.
        """
        return cls(net=net, **{**cls.PAPER, **vars(PAPER_VIEWS), 'image_size': image_size, **changes})

    draw = MultiCrop.draw

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views that fit, for tracing."""
        return self.shapes(self.net.example_input())
