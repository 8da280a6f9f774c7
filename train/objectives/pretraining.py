"""Training from images without labels: a loss of `vit_flax.objectives` around the network.

Masks and views are drawn when a batch is prepared, for the whole batch; what the loss keeps beside the parameters
(teachers, centres) is part of the state. Probes evaluate the features with the labels from time to time.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from train.errors import UserError
from train.objectives.objective import RNGS, Batch, Objective, Reconstruct, Scaled, Variables
from train.objectives.options import check_options, in_options, values_of
from vit_flax.objectives.encoder import mask_from_indices
from vit_flax.objectives.monitors import MONITORS
from vit_flax.objectives.objective import Objective as Loss
from vit_flax.objectives.objective import PostUpdate, encoder_variables, with_encoder
from vit_flax.objectives.views import MultiCrop

# Below this the features of all images point in the same direction; of a new ViT they have a few hundredths.
COLLAPSED = 0.003


@dataclass(frozen=True)
class Pretraining(Objective):
    """A loss of `vit_flax.objectives` with the model as its network; see `train.objectives.options.trains`.

    Class attributes:
      loss_class: the loss.
      paper_views: the paper's views, or None if the loss takes images.
      arguments: option -> argument of the loss.
      view_arguments: option -> argument of the views.
      reconstructs: whether the loss predicts the pixels of masked patches, and has a method `reconstruct`.
    """

    probe_images: int = 10000
    """Maximum number of training and of validation images for the k-NN and linear probes at each evaluation; 0 turns
    the probes off, and the best checkpoint is then the one of the lowest loss."""

    inside = 'encoder/'
    loss_class: ClassVar[type[Loss]]
    paper_views: ClassVar[MultiCrop | None]
    arguments: ClassVar[Mapping[str, str]]
    view_arguments: ClassVar[Mapping[str, str]]

    reconstructs: ClassVar[bool] = False

    if TYPE_CHECKING:  # options are made from the arguments of the loss

        def __init__(self, **options: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    @property
    def watch(self) -> str:
        return 'knn_accuracy' if self.probe_images else 'loss'

    @property
    def best(self) -> str:
        return 'max' if self.probe_images else 'min'

    @property
    def probed(self) -> int:
        return self.probe_images

    def check(self) -> None:
        if self.probe_images < 0:
            raise UserError(f'objective.probe_images={self.probe_images} must be at least 0')
        check_options(self)
        try:
            _ = self.views
        except ValueError as error:
            raise UserError(in_options(self, str(error))) from error

    # ------------------------------------------------------------------ the loss and what it is called with

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        loss: Any = self.loss_class
        arguments = {**values_of(self, self.arguments), **self.derived(model, scale)}
        return loss.paper(model, dtype=getattr(model, 'dtype', None), **arguments)

    def derived(self, model: nn.Module, scale: Scaled | None) -> dict[str, Any]:
        """Arguments of the loss that follow from the network, the data or other options."""
        del model, scale
        return {}

    @property
    def views(self) -> MultiCrop | None:
        """The views of images that the loss takes; None if it takes images."""
        return self.paper_views and dataclasses.replace(self.paper_views, **values_of(self, self.view_arguments))

    def draw(self, module: Any, images: Array, rng: Array, scale: Scaled) -> dict[str, Array]:
        """What the loss is called with for a batch of stored images, leaves `[b ...]`."""
        if self.views is None:
            images = scale({'image': images})['image']
            return {'images': images, **module.draw(rng, images)}
        views = self.views.draw(rng, unit_interval(images))
        return {name: jnp.swapaxes(scale.views(view), 0, 1) for name, view in views.items()}

    def inputs(self, module: Any, drawn: Mapping[str, Array], rng: Array, progress: Array | float) -> dict[str, Any]:
        """Keyword arguments of the loss."""
        if self.views is None:
            return {**drawn, **self.scheduled(progress)}
        views = {name: jnp.swapaxes(view, 0, 1) for name, view in drawn.items()}
        return {**views, **module.draw(rng, drawn['global_views']), **self.scheduled(progress)}

    def scheduled(self, progress: Array | float) -> dict[str, Array]:
        """Arguments of the loss that follow a schedule."""
        del progress
        return {}

    def decay(self, progress: Array | float) -> Array | None:
        """EMA decay of the teacher, where it follows a schedule."""
        del progress
        return None

    # ------------------------------------------------------------------ what the step calls

    def init(self, module: Any, rng: Array, batch: Batch) -> Variables:
        def inputs(images: Array) -> dict[str, Array]:
            views = {'images': images} if self.views is None else self.views.draw(rng, images)
            return {**views, **module.draw(rng, images)}

        shapes = jax.eval_shape(inputs, jax.ShapeDtypeStruct(batch['image'].shape, jnp.float32))
        return module.init(rng, **jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))

    def prepare(self, model: nn.Module, batch: Batch, rng: Array, scale: Scaled, train: bool) -> Batch:
        del train
        others = {name: rows for name, rows in batch.items() if name != 'image'}
        return {**others, 'draws': self.draw(self.module(model, scale), batch['image'], rng, scale)}

    def loss(
        self,
        module: Any,
        variables: Variables,
        batch: Batch,
        rng: Array,
        train: bool,
        progress: Array | float = 0.0,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        collections = {name: tree for name, tree in variables.items() if name != 'params'}
        inputs = self.inputs(module, batch['draws'], jax.random.fold_in(rng, len(RNGS)), progress)
        if self.views is not None:
            # statistics over the batch, in the loss and in its monitors, exclude padding
            inputs['weights'] = batch.get('weight')
        rngs = {name: jax.random.fold_in(rng, i) for i, name in enumerate(RNGS)}
        # Validation updates no centre and no statistics.
        mutable = [*collections, MONITORS] if train else [MONITORS]
        losses, state = module.apply(variables, **inputs, train=train, rngs=rngs, mutable=mutable, method='losses')
        metrics = {'loss': losses, **state.pop(MONITORS, {})}
        metrics = {name: jnp.broadcast_to(value, losses.shape) for name, value in metrics.items()}
        return losses.mean(), (metrics, {**collections, **state})

    def post_update(self, module: Any, variables: Variables, progress: Array | float = 0.0) -> Variables:
        """The network's own rule, if it has one, and then that of the loss."""
        network = module.given_encoder
        if isinstance(network, PostUpdate):
            variables = with_encoder(variables, network.post_update(encoder_variables(variables)))
        return module.post_update(variables, decay=self.decay(progress))

    def network(self, variables: Variables) -> Variables:
        return self.loss_class.network(variables)

    def with_network(self, variables: Variables, network: Variables) -> Variables:
        return self.loss_class.with_network(variables, network)

    def followed(self, path: tuple[str, ...]) -> tuple[str, ...]:
        student = self.loss_class.students.get(path[0]) if len(path) > 1 else None
        if student is None:
            return path
        return ('encoder', *path[2:]) if path[1] == 'net' else (student, *path[1:])

    def pictures(self, model: Any, scale: Scaled) -> Reconstruct | None:
        module = self.module(model, scale)
        if not self.reconstructs:
            return None

        def complete(variables: Variables, images: Array, rng: Array) -> tuple[Array, Array]:
            draws = module.draw(rng, images)
            mask = mask_from_indices(draws['masked'], model.grid.num_patches)
            patches = jnp.where(mask[..., None], jnp.nan, model.grid.patchify(images))
            masked = model.grid.unpatchify(patches, module.grid_of(images))
            return masked, module.apply(variables, images, **draws, method='reconstruct')

        return complete

    def warning(self, numbers: Mapping[str, float]) -> str:
        spread = numbers.get('val/feature_std', 1.0)
        if spread >= COLLAPSED:
            return ''
        return (
            f'the features have collapsed: those of different images point in nearly the same direction (feature_std '
            f'{spread:.4f}, where 1 is uniform); try a lower optim.learning_rate'
        )


def unit_interval(images: Array) -> Array:
    """Stored images `[b h w c]` scaled to values from 0 to 1.

    Raises:
      UserError: they are not uint8, and their scale is not known.
    """
    if images.dtype != jnp.uint8:
        raise UserError(f'this objective changes or predicts colours: it needs uint8 images, these are {images.dtype}')
    return images.astype(jnp.float32) / 255
