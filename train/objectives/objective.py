"""What an objective must offer. All of it is pure: it runs inside the jitted step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn
from jax import Array

from vit_flax.objectives.objective import PostUpdate

Variables = Mapping[str, Any]
Batch = Mapping[str, Any]
# Every collection of random numbers that a model of vit_flax may ask for.
RNGS = ('dropout', 'drop_path', 'mask', 'tokens')
# `train.scale.Scale`: images as stored to what a network takes.
Scaled = Any
# Images `[b h w c]` to (masked, predicted), each `[b h w c]`.
Reconstruct = Callable[[Variables, Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Objective:
    """A loss and its metrics: its fields are its options.

    Most methods are given a `module`, what the loss is computed with: see `module`.

    Class attributes:
      classifies: whether it trains the network's own head to classify; only then there are `logits`.
      inside: path of the network's parameters among all of them, such as `encoder/`.
      whole: why a batch cannot be computed in parts; '' if it can.
    """

    classifies: ClassVar[bool] = False
    inside: ClassVar[str] = ''
    whole: ClassVar[str] = ''

    @property
    def watch(self) -> str:
        """The validation metric by which the best checkpoint is chosen."""
        return 'loss'

    @property
    def best(self) -> str:
        """Whether the highest ('max') or lowest ('min') value of it is the best."""
        return 'min'

    @property
    def probed(self) -> int:
        """Maximum number of training images for the k-NN and linear probes; 0 for no probes, as in classification."""
        return 0

    def check(self) -> None:
        """Raises a `UserError` that names an option of an impossible value."""

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        """What the loss is computed with: the network itself, or an objective of `vit_flax` around it.

        Args:
          model: the network.
          scale: `train.scale.Scale`; None where nothing but the variables matters.
        """
        del scale
        return model

    def init(self, module: Any, rng: Array, batch: Batch) -> Variables:
        """Initial variables: `params`, and collections such as `batch_stats` if there are any."""
        raise NotImplementedError

    def given(self) -> Mapping[str, Any]:
        """Trees of arrays that training reads and never changes, by name, such as the variables of a teacher. They are
        beside the rows in every batch that `prepare` is given for training."""
        return {}

    def prepare(self, model: nn.Module, batch: Batch, rng: Array, scale: Scaled, train: bool) -> Batch:
        """What is done to a whole batch first: scaling, mixing its images, drawing masks or views of them.

        Args:
          model: the network.
          batch: leaves `[b ...]`, images as they are stored; and what is `given`.
          rng: of this step; for validation always the same.
          scale: `train.scale.Scale`.
          train: training or validation.

        Returns:
          Leaves `[b ...]`, since a batch may be computed in parts.
        """
        del model, rng, train
        return scale(batch)

    def loss(
        self,
        module: Any,
        variables: Variables,
        batch: Batch,
        rng: Array,
        train: bool,
        progress: Array | float = 0.0,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        """The loss of a batch.

        Args:
          module: see `module`.
          variables: `params` and the other collections.
          batch: as `prepare` returned it; in evaluation with `weight` `[b]`, 0 for rows that are padding.
          rng: of this step; everything random is drawn from it.
          train: training or validation.
          progress: fraction of the run's steps that are done, from 0 to 1, for schedules.

        Returns:
          The mean loss, and (metrics `[b]` by name, `loss` among them, whose weighted mean is the metric of the batch;
          the new state of the collections other than `params`).
        """
        raise NotImplementedError

    def post_update(self, module: Any, variables: Variables, progress: Array | float = 0.0) -> Variables:
        """The variables after the rule that follows the optimizer's step, if there is one: here the network's own, such
        as nViT's normalisation. `progress` as for the loss."""
        del progress
        return module.post_update(variables) if isinstance(module, PostUpdate) else variables

    def logits(self, model: nn.Module, variables: Variables, images: Array) -> Array:
        """Of the classes, `[b classes]`, for scaled images; of an objective that `classifies`."""
        raise NotImplementedError

    def followed(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Path of a module or parameter to that of the one it is a moving average of, such as a teacher's student;
        others stay as they are."""
        return path

    def network(self, variables: Variables) -> Variables:
        """The variables of the network alone, as `model.apply` takes them, out of those of the objective."""
        return variables

    def with_network(self, variables: Variables, network: Variables) -> Variables:
        """The objective's variables with those of the network in them: the way back from `network`."""
        return network

    def pictures(self, model: nn.Module, scale: Scaled) -> Reconstruct | None:
        """A function that shows how well masked parts of an image are predicted, or None.

        From variables, scaled images `[b h w c]` and a key to images with NaN where they are masked, and to
        reconstructed images, `[b h w c]` each."""
        return None

    def warning(self, numbers: Mapping[str, float]) -> str:
        """A line about metrics that indicate a failure, such as collapse; '' if none do."""
        return ''
