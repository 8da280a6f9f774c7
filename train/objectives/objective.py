"""What an objective must offer. All of it is pure: it runs inside the jitted step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn
from jax import Array

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
    """A loss and the numbers to watch: its fields are its options.

    Class attributes:
      classifies: whether it trains the network's own head to tell the labels; only then `logits` are there.
      inside: where in the parameters those of the network stand, such as `encoder/`.
      whole: why a batch cannot be computed in parts; '' if it can.
    """

    classifies: ClassVar[bool] = False
    inside: ClassVar[str] = ''
    whole: ClassVar[str] = ''

    @property
    def watch(self) -> str:
        """The metric of the held-out data by which the best checkpoint is chosen."""
        return 'loss'

    @property
    def best(self) -> str:
        """Whether the highest ('max') or lowest ('min') value of it is the best."""
        return 'min'

    @property
    def probed(self) -> int:
        """From how many training images at most probes learn what the network's features know of the labels; 0 for no
        probes, as where the labels are what is learned anyway."""
        return 0

    def check(self) -> None:
        """Raises a `UserError` if an option makes no sense."""

    def init(self, model: nn.Module, rng: Array, batch: Batch) -> Variables:
        """Initial variables: `params`, and collections such as `batch_stats` if there are any."""
        raise NotImplementedError

    def given(self) -> Mapping[str, Any]:
        """Trees of arrays that training reads and never changes, by name, such as the variables of a teacher. They
        stand beside the rows in every batch that `prepare` makes ready for training."""
        return {}

    def prepare(self, model: nn.Module, batch: Batch, rng: Array, scale: Scaled, train: bool) -> Batch:
        """What happens to a whole batch first: scaling, mixing its images, drawing masks or views of them.

        Args:
          model: the network.
          batch: leaves `[b ...]`, images as they are stored; and what is `given`.
          rng: of this step; for held-out data always the same.
          scale: `train.scale.Scale`.
          train: whether it is trained on, or held-out data.

        Returns:
          Leaves `[b ...]`, since a batch may be computed in parts; and perhaps the scale, which has no leaves.
        """
        del model, rng, train
        return scale(batch)

    def loss(
        self,
        model: nn.Module,
        variables: Variables,
        batch: Batch,
        rng: Array,
        train: bool,
        progress: Array | float = 0.0,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        """The loss of a batch.

        Args:
          model: the network.
          variables: `params` and the other collections.
          batch: as `prepare` returned it.
          rng: of this step; everything random is drawn from it.
          train: whether it is differentiated, or evaluates held-out data.
          progress: part of the run's steps that are done, from 0 to 1, for schedules.

        Returns:
          The mean loss, and (metrics `[b]` by name with the value of each example, `loss` among them;
          the new state of the collections other than `params`).
        """
        raise NotImplementedError

    def post_update(self, model: nn.Module, variables: Variables, progress: Array | float = 0.0) -> Variables:
        """What must happen after the optimizer's step, to parameters or collections; `progress` as for the loss."""
        return variables

    def logits(self, model: nn.Module, variables: Variables, images: Array) -> Array:
        """Of the classes, `[b classes]`, for scaled images; of an objective that `classifies`."""
        raise NotImplementedError

    def followed(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Path of a module, or of a parameter, to that of the one whose past it is an average of, such as a teacher's
        student; others stay as they are."""
        return path

    def network(self, variables: Variables) -> Variables:
        """The variables of the network alone, as `model.apply` takes them, out of those of the objective."""
        return variables

    def with_network(self, variables: Variables, network: Variables) -> Variables:
        """The objective's variables with those of the network in them: the way back from `network`."""
        return network

    def pictures(self, model: nn.Module, scale: Scaled) -> Reconstruct | None:
        """What shows how well hidden parts of an image are predicted: variables, scaled images `[b h w c]` and a key
        to images with NaN where they are hidden, and to images as the network completes them, `[b h w c]` each."""
        return None

    def warning(self, numbers: Mapping[str, float]) -> str:
        """A line about numbers of a run that tell of something wrong; '' if nothing is."""
        return ''
