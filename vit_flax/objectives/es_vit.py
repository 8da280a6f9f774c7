"""Efficient Self-supervised Vision Transformers for Representation Learning (EsViT), arXiv:2106.09785.

vit-pytorch's `es_vit`: DINO for networks that end in a feature map. Beside the whole view, each
place of the student's map tells what the teacher sees at the place that is most like it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.objectives.dino import SelfDistillation, cross_entropy, mean_over_pairs
from vit_flax.objectives.projection import Projector, layer_output, scaled


class ProjectedMap(Module):
    """A network, its feature map and two projectors: images `[b h w c]` to projections of view, places, and places.

    Attributes:
      net: the network.
      layer: see `projection.layer_output`; it gives `[b h w d]`.
      features, layers, hidden, bottleneck: of both projectors.
      scale_places: scale the hidden features of each place to length one, as those of the view; else each hidden
        feature is scaled over all places.
    """

    net: Any
    layer: str | int
    features: int
    layers: int
    hidden: int
    bottleneck: int | None = None
    scale_places: bool = False

    def setup(self) -> None:
        sizes = self.features, self.layers, self.hidden, self.bottleneck
        # upstream: the region projector scales along axis 1, which is that of the places, not that of the features.
        region_axis = -1 if self.scale_places else 1
        self.view_projector = Projector(*sizes, **self.precision)
        self.region_projector = Projector(*sizes, region_axis, **self.precision)

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to the mean of the map `[b d]` and the map itself `[b h w d]`."""
        places = layer_output(self.net, self.layer, images, train)
        if places.ndim != 4:
            raise ValueError(
                f'hidden_layer={self.layer!r} gives {places.shape}, and not a feature map [b h w c]: take dino for it, '
                'or name a layer before the pooling'
            )
        return places.mean(axis=(1, 2)), places

    def __call__(self, images: Array, train: bool = False) -> tuple[Array, Array, Array]:
        view, places = self.embed(images, train)
        places = places.reshape(len(places), -1, places.shape[-1])
        return self.view_projector(view), self.region_projector(places), places


class EsViTTrainer(SelfDistillation, kw_only=True):
    """EsViT (arXiv:2106.09785): views of images to the loss. For the other arguments see `SelfDistillation`.

    Attributes:
      scale_places: see `ProjectedMap`.
      cosine_matches: places are alike by the cosine of their features, as in the paper; else by their product.
    """

    scale_places: bool = False
    cosine_matches: bool = False

    @classmethod
    def paper(cls, net: nn.Module, image_size: Any, **changes: Any) -> 'EsViTTrainer':
        """The paper's (section 4 and appendix): DINO's projector, temperatures and views, places matched by cosine."""
        settings = dict(
            num_classes_K=65536,
            projection_hidden_size=2048,
            projection_layers=3,
            projection_bottleneck=256,
            student_temp=0.1,
            teacher_temp=0.04,
            moving_average_decay=0.996,
            global_lower_crop_scale=0.4,
            num_local_views=8,
            student_sees_global=True,
            scale_places=True,
            cosine_matches=True,
        )
        return cls(net=net, image_size=image_size, **{**settings, **changes})

    @property
    def network(self) -> Any:
        return ProjectedMap

    def wrapped(self, constructor: Any, net: nn.Module) -> Any:
        return super().wrapped(constructor, net).clone(scale_places=self.scale_places)

    @property
    def centred(self) -> tuple[str, ...]:
        return 'view_centers', 'region_centers'

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to the student's feature map, its mean `[b d]` and the map itself `[b h w d]`."""
        return self.student.embed(images, train)

    def __call__(
        self,
        global_views: Array,
        local_views: Array,
        train: bool = False,
        student_temp: float | Array | None = None,
        teacher_temp: float | Array | None = None,
    ) -> Array:
        """How badly the student tells what the teacher sees, as a whole and place by place, a scalar.

        Args:
          global_views: large crops `[2 b h w c]`; the teacher sees these. See `draw`.
          local_views: small crops `[v b h w c]`. View i of the teacher is not compared with view i of the student.
          train: dropout and statistics.
          student_temp, teacher_temp: in this call.
        """
        student, (view, region, seen) = self.outputs(global_views, local_views, train)
        temperature = self.student_temp if student_temp is None else student_temp
        student_view = [log_probabilities(to_float32(view) / temperature) for view, _, _ in student]
        student_region = [
            (log_probabilities(to_float32(places) / temperature), latent) for _, places, latent in student
        ]
        views = self.answers('view_centers', view, teacher_temp)
        regions = self.answers('region_centers', region, teacher_temp)
        of_views = mean_over_pairs(cross_entropy, views, student_view)
        of_regions = mean_over_pairs(self.region_loss, (regions, seen), student_region)
        return (of_views + of_regions) / 2

    def region_loss(self, teacher: tuple[Array, Array], student: tuple[Array, Array]) -> Array:
        """Each place of the student against the teacher's place most like it, `2 x ([b n k], [b n d]) -> []`."""
        (answers, theirs), (guesses, ours) = teacher, student
        if self.cosine_matches:
            theirs, ours = scaled(theirs, -1), scaled(ours, -1)
        alike = jnp.einsum('b n d, b m d -> b n m', ours, theirs).argmax(axis=-1)
        return cross_entropy(jnp.take_along_axis(answers, alike[..., None], axis=1), guesses)


def log_probabilities(logits: Array) -> Array:
    """`[... k]`, bounded from below at log(1e-20), as upstream's."""
    return jnp.log(jax.nn.softmax(logits) + 1e-20)
