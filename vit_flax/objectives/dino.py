"""Emerging Properties in Self-Supervised Vision Transformers (DINO), arXiv:2104.14294.

vit-pytorch's `dino`: a student tells from small crops of an image what its teacher, an average of
the student's own past, sees in large ones: how the image falls among prototypes that nobody
labelled. The teacher's answers are centred and sharpened, or both would agree on one answer for all.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.checks import pair
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.objectives.monitors import entropy, spread, watch
from vit_flax.objectives.projection import ProjectedNet, in_collection, moved, of_views
from vit_flax.objectives.views import Augmentation, byol_augment, dino_augment, draw_crops


class SelfDistillation(Module, kw_only=True):
    """What DINO and EsViT share: a student, the teacher that follows it, views and centres.

    Attributes:
      net: the network to train. Its variables stand under `encoder`, those of the teacher's copy in the collection
        `teacher`.
      image_size: height and width of the views in pixels, or one number for both.
      hidden_layer: which layer of the network is projected; see `projection.layer_output`.
      projection_hidden_size, projection_layers: of the projector.
      num_classes_K: number of prototypes.
      student_temp, teacher_temp: temperatures; lower is sharper.
      local_upper_crop_scale: largest share of an image's area in a small crop; the smallest is 0.05.
      global_lower_crop_scale: smallest share in a large crop.
      moving_average_decay: of the teacher.
      center_moving_average_decay: of the centres.
      augment_fn, augment_fn2: `(rng, images) -> images`, what happens to crops with even and odd numbers, values from
        0 to 1; None is upstream's mixture of jitter, grey, mirror and blur (`views.byol_augment`).
      local_augment_fn: the same for all small crops; None is as for the large ones.
      num_local_views: small crops of each image.
      local_size: height and width of the small crops, for networks that take several sizes; None is `image_size`.
      local_lower_crop_scale: smallest share of an image's area in a small crop.
      student_sees_global: the student gets the large crops too, as in the paper.
      projection_bottleneck: see `projection.Projector`; None is upstream's projector.
    """

    net: Any
    image_size: int | Sequence[int]
    hidden_layer: str | int = -2
    projection_hidden_size: int = 256
    num_classes_K: int = 65336
    projection_layers: int = 4
    student_temp: float = 0.9
    teacher_temp: float = 0.04
    local_upper_crop_scale: float = 0.4
    global_lower_crop_scale: float = 0.5
    moving_average_decay: float = 0.9
    center_moving_average_decay: float = 0.9
    augment_fn: Augmentation | None = None
    augment_fn2: Augmentation | None = None
    local_augment_fn: Augmentation | None = None
    num_local_views: int = 2
    local_size: int | Sequence[int] | None = None
    local_lower_crop_scale: float = 0.05
    student_sees_global: bool = False
    projection_bottleneck: int | None = None

    def wrapped(self, constructor: Callable[..., Any], net: nn.Module) -> Any:
        """A network with its projectors."""
        sizes = self.num_classes_K, self.projection_layers, self.projection_hidden_size, self.projection_bottleneck
        return constructor(net, self.hidden_layer, *sizes, **self.precision)

    @property
    def network(self) -> type[nn.Module]:
        """What is built around the student's network and the teacher's."""
        raise NotImplementedError

    @property
    def centred(self) -> tuple[str, ...]:
        """Names of the answers that have a centre."""
        raise NotImplementedError

    def setup(self) -> None:
        self.encoder = self.net.clone(_deep_clone=True)
        self.student = self.wrapped(self.network, self.encoder)
        teacher = in_collection('teacher', self.network, self.param_dtype)
        self.teacher = self.wrapped(teacher, self.net.clone(_deep_clone=True))
        self.centers = {
            name: self.variable(
                'centers', name, jnp.zeros, (1, self.num_classes_K), jnp.promote_types(self.param_dtype, jnp.float32)
            )
            for one in self.centred
            for name in (f'teacher_{one}', f'last_teacher_{one}')
        }

    def draw(self, rng: Array, images: Array) -> dict[str, Array]:
        """Random crops of images with values from 0 to 1: `global_views` `[2 b h w c]`, `local_views` `[v b h w c]`.

        Upstream, which crops the whole batch at the same place, also subtracts ImageNet's mean: here that is left to
        the caller.
        """
        augment = self.augment_fn or byol_augment, self.augment_fn2 or byol_augment
        local = (self.local_augment_fn,) * 2 if self.local_augment_fn else augment
        large = self.global_lower_crop_scale, 1.0
        small = self.local_lower_crop_scale, self.local_upper_crop_scale
        sizes = pair(self.image_size, 'image_size'), pair(self.local_size or self.image_size)
        rngs = jax.random.split(rng)
        return {
            'global_views': draw_crops(rngs[0], images, 2, sizes[0], large, augment),
            'local_views': draw_crops(rngs[1], images, self.num_local_views, sizes[1], small, local),
        }

    def outputs(self, global_views: Array, local_views: Array, train: bool) -> tuple[list[Any], Any]:
        """What the student says of each view, trees of `[b ...]`, and the teacher of the large ones, `[v b ...]`."""
        statistics = self.has_variable('batch_stats', 'teacher') and self.is_mutable_collection('batch_stats')
        students = [local_views]
        if self.student_sees_global:
            same = global_views.shape[1:] == local_views.shape[1:] and not statistics
            students = [jnp.concatenate([global_views, local_views])] if same else [global_views, local_views]
        # Maps of views of different size have different numbers of places.
        student = [
            jax.tree.map(lambda x, i=i: x[i], said)
            for views in students
            for said in [of_views(self.student, views, train, statistics)]
            for i in range(len(views))
        ]
        teacher = jax.lax.stop_gradient(of_views(self.teacher, global_views, train, statistics))
        watch(self, 'projection_std', jnp.stack([spread(to_float32(said[0])) for said in student]).mean())
        if self.is_initializing():
            self.put_variable('teacher', 'teacher', self.as_teacher(self.variables['params']))
        return student, teacher

    def as_teacher(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The student's parameters as the teacher's copy has them."""
        return jax.tree.map(to_float32, {'net': params['encoder'], **params['student']})

    def answers(self, name: str, logits: Array, temperature: float | Array | None) -> Array:
        """The teacher's probabilities, `[v b ... k]`, centred and sharpened; their mean is kept for the next centre."""
        logits = to_float32(logits)
        if self.is_mutable_collection('centers'):
            last = self.centers[f'last_teacher_{name}']
            last.value = logits.reshape(-1, logits.shape[-1]).mean(axis=0, keepdims=True).astype(last.value.dtype)
        temperature = self.teacher_temp if temperature is None else temperature
        center = self.centers[f'teacher_{name}'].value
        shares = jax.nn.softmax((logits - center) / temperature)
        watch(self, name.replace('centers', 'center_norm'), jnp.linalg.norm(center))
        watch(self, f'teacher_{name.replace("centers", "entropy")}', entropy(shares))
        return shares

    def post_update(self, variables: Mapping[str, Any], decay: float | Array | None = None) -> dict[str, Any]:
        """After a step of the optimizer: moves the teacher towards the student, and the centres.

        Args:
          variables: of the objective, parameters updated.
          decay: of the teacher, where it follows a schedule; None is `moving_average_decay`.
        """
        decay = self.moving_average_decay if decay is None else decay
        # upstream: statistics of BatchNorm in the teacher are its own, not averages of the student's.
        teacher = moved(variables['teacher']['teacher'], self.as_teacher(variables['params']), decay)
        centers = dict(variables['centers'])
        for name in self.centred:
            old, last = centers[f'teacher_{name}'], centers[f'last_teacher_{name}']
            centers[f'teacher_{name}'] = moved(old, last, self.center_moving_average_decay)
        return {**variables, 'teacher': {'teacher': teacher}, 'centers': centers}

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views that fit, for tracing."""
        example = self.net.example_input()
        sizes = pair(self.image_size, 'image_size'), pair(self.local_size or self.image_size)
        counts = 2, self.num_local_views
        return tuple(
            jax.ShapeDtypeStruct((count, 2, *size, example.shape[-1]), example.dtype)
            for count, size in zip(counts, sizes, strict=True)
        )

    torch_names = {'encoder': 'net', 'student': 'student_encoder', 'teacher': 'teacher_encoder'}
    torch_ties = {'encoder': lambda objective: ['student_encoder.net']}


def mean_over_pairs(loss: Callable[[Any, Any], Array], teacher: Any, student: Sequence[Any]) -> Array:
    """Mean loss of each of the teacher's views with each of the student's but the one of the same number.

    Args:
      loss: of a view of the teacher and one of the student.
      teacher: a tree of arrays whose first axis runs over the views.
      student: a tree of arrays for each view.
    """
    losses = [
        loss(jax.tree.map(lambda x, t=t: x[t], teacher), view)
        for t in range(len(jax.tree.leaves(teacher)[0]))
        for s, view in enumerate(student)
        if t != s
    ]
    return jnp.stack(losses).mean()


def cross_entropy(teacher: Array, student: Array) -> Array:
    """Of the teacher's probabilities and the student's logarithms of them, `[... k], [... k] -> []`."""
    return -(teacher * student).sum(axis=-1).mean()


class Dino(SelfDistillation, kw_only=True):
    """DINO (arXiv:2104.14294): views of images to the loss. For the other arguments see `SelfDistillation`.

    Attributes:
      average_places: project the mean of a network's feature map, as in the paper; upstream projects all of it.
    """

    average_places: bool = False

    @classmethod
    def paper(cls, net: nn.Module, image_size: int | Sequence[int], **changes: Any) -> 'Dino':
        """The paper's (section 3 and appendix C): 65,536 prototypes, temperatures 0.1 and 0.04, ten views.

        Its schedules are the caller's: the teacher's temperature rises to 0.07 in the first epochs, its decay from
        0.996 to 1, the weight decay from 0.04 to 0.4.
        """
        settings = dict(
            num_classes_K=65536,
            projection_hidden_size=2048,
            projection_layers=3,
            projection_bottleneck=256,
            student_temp=0.1,
            teacher_temp=0.04,
            moving_average_decay=0.996,
            global_lower_crop_scale=0.4,
            augment_fn=partial(dino_augment, blurred=1.0),
            augment_fn2=partial(dino_augment, blurred=0.1, solarised=0.2),
            local_augment_fn=partial(dino_augment, blurred=0.5),
            num_local_views=8,
            student_sees_global=True,
            average_places=True,
        )
        return cls(net=net, image_size=image_size, **{**settings, **changes})

    @property
    def network(self) -> type[nn.Module]:
        return ProjectedNet

    def wrapped(self, constructor: Callable[..., Any], net: nn.Module) -> Any:
        return super().wrapped(constructor, net).clone(average_places=self.average_places)

    @property
    def centred(self) -> tuple[str, ...]:
        return ('centers',)

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to the student's (projection `[b k]`, embedding `[b d]`)."""
        return self.student(images, train)

    def __call__(
        self,
        global_views: Array,
        local_views: Array,
        train: bool = False,
        student_temp: float | Array | None = None,
        teacher_temp: float | Array | None = None,
    ) -> Array:
        """How badly the student tells what the teacher sees, a scalar.

        Args:
          global_views: large crops `[2 b h w c]`; the teacher sees these. See `draw`.
          local_views: small crops `[v b h w c]`. View i of the teacher is not compared with view i of the student.
          train: dropout and statistics.
          student_temp, teacher_temp: in this call.
        """
        student, (teacher, _) = self.outputs(global_views, local_views, train)
        answers = self.answers('centers', teacher, teacher_temp)
        temperature = self.student_temp if student_temp is None else student_temp
        guesses = [jax.nn.log_softmax(to_float32(logits) / temperature) for logits, _ in student]
        return mean_over_pairs(cross_entropy, answers, guesses)
