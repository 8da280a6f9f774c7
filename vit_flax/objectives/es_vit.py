"""Efficient Self-supervised Vision Transformers for Representation Learning (EsViT), arXiv:2106.09785.

vit-pytorch's `es_vit`: DINO for networks that end in a feature map. Beside the whole view, each position of the
student's map predicts the teacher's distribution at the position with the most similar features.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.objectives.dino import PAPER_VIEWS, SelfDistillation, cross_entropy, mean_over_pairs
from vit_flax.objectives.projection import Projector, layer_output, scaled
from vit_flax.objectives.views import MultiCrop


class ProjectedMap(Module):
    """A network, its feature map and two projectors: images `[b h w c]` to projections.

    Those of the whole view `[b k]` and of each position `[b n k]`, and the map itself `[b n d]`.

    Attributes:
      net: the network.
      layer: see `projection.layer_output`; its output is `[b h w d]`.
      features, layers, hidden, bottleneck: of both projectors.
      scale_places: scale the hidden features of each position to length one, as those of the view; else each hidden
        feature is scaled over all positions.
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
        # upstream: the region projector scales along axis 1, which is that of the positions, not that of the features.
        region_axis = -1 if self.scale_places else 1
        self.view_projector = Projector(*sizes, **self.precision)
        self.region_projector = Projector(*sizes, region_axis, **self.precision)

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to the mean of the map `[b d]` and the map itself `[b h w d]`."""
        features = layer_output(self.net, self.layer, images, train)
        if features.ndim != 4:
            raise ValueError(
                f'hidden_layer={self.layer!r} gives {features.shape}, and not a feature map [b h w c]: take dino '
                'for it, or name a layer before the pooling'
            )
        return features.mean(axis=(1, 2)), features

    def __call__(self, images: Array, train: bool = False) -> tuple[Array, Array, Array]:
        view, features = self.embed(images, train)
        b, h, w, d = features.shape
        regions = features.reshape(b, h * w, d)
        return self.view_projector(view), self.region_projector(regions), regions


class EsViTLoss(SelfDistillation, kw_only=True):
    """EsViT (arXiv:2106.09785): given views of images to the loss. For the other arguments see `SelfDistillation`.

    Attributes:
      scale_places: scale the hidden features of each position to length one; see `ProjectedMap`.
      cosine_matches: match positions by the cosine of their features, as in the paper; else by their dot product.
    """

    scale_places: bool = False
    cosine_matches: bool = False

    centred: ClassVar[tuple[str, ...]] = ('view_centers', 'region_centers')
    PAPER: ClassVar[Mapping[str, Any]] = {**SelfDistillation.PAPER, 'scale_places': True, 'cosine_matches': True}

    def projected(self, net: nn.Module) -> ProjectedMap:
        return ProjectedMap(net, scale_places=self.scale_places, **self.projection)

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to the mean of the student's feature map `[b d]` and the map itself `[b h w d]`."""
        return self.student.embed(images, train)

    def losses(
        self,
        global_views: Array,
        local_views: Array,
        train: bool = False,
        student_temp: float | Array | None = None,
        teacher_temp: float | Array | None = None,
        weights: Array | None = None,
    ) -> Array:
        """Teacher-student cross-entropy averaged over view pairs, of views and of positions in equal parts, `[b]`.

        Arguments as for the call.
        """
        student, (teacher_view, teacher_regions, features) = self.outputs(global_views, local_views, train, weights)
        temperature = self.student_temp if student_temp is None else student_temp
        of_views = [log_probabilities(to_float32(view) / temperature) for view, _, _ in student]
        of_regions = [(log_probabilities(to_float32(regions) / temperature), own) for _, regions, own in student]
        view = self.teacher_probabilities('view_centers', teacher_view, teacher_temp)
        regions = self.teacher_probabilities('region_centers', teacher_regions, teacher_temp)
        view_loss = mean_over_pairs(cross_entropy, view, of_views)
        region_loss = mean_over_pairs(self.region_loss, (regions, features), of_regions)
        return (view_loss + region_loss) / 2

    def region_loss(self, teacher: tuple[Array, Array], student: tuple[Array, Array]) -> Array:
        """Each position of the student against the teacher's most similar one, `2 x ([b n k], [b n d]) -> [b]`."""
        (probabilities, teacher_features), (predicted, student_features) = teacher, student
        if self.cosine_matches:
            teacher_features, student_features = scaled(teacher_features, -1), scaled(student_features, -1)
        nearest = jnp.einsum('b n d, b m d -> b n m', student_features, teacher_features).argmax(axis=-1)
        return cross_entropy(jnp.take_along_axis(probabilities, nearest[..., None], axis=1), predicted)


class EsViTTrainer(EsViTLoss, MultiCrop, kw_only=True):
    """EsViT with vit-pytorch's constructor: the loss of `EsViTLoss`, views of `MultiCrop`, the arguments of both."""

    @classmethod
    def paper(cls, net: nn.Module, image_size: int | Sequence[int] | None = None, **changes: Any) -> Self:
        """The paper's (section 4 and appendix): DINO's projector, temperatures and views, matches by cosine."""
        return cls(net=net, **{**cls.PAPER, **vars(PAPER_VIEWS), 'image_size': image_size, **changes})

    draw = MultiCrop.draw

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Views that fit, for tracing."""
        return self.shapes(self.net.example_input())


def log_probabilities(logits: Array) -> Array:
    """`[... k]`, bounded from below at log(1e-20), as upstream's."""
    return jnp.log(jax.nn.softmax(logits) + 1e-20)
