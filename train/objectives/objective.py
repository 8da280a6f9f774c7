"""What an objective must offer. All of it is pure: it runs inside the jitted step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flax import linen as nn
from jax import Array

Variables = Mapping[str, Any]
Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Objective:
    """A loss and the numbers to watch: its fields are its options.

    Class attributes:
      watch: the metric of the held-out data by which the best checkpoint is chosen.
      best: whether the highest ('max') or lowest ('min') value of it is the best.
    """

    watch = 'loss'
    best = 'min'

    def check(self) -> None:
        """Raises a `UserError` if an option makes no sense."""

    def init(self, model: nn.Module, rng: Array, batch: Batch) -> Variables:
        """Initial variables: `params`, and collections such as `batch_stats` if there are any."""
        raise NotImplementedError

    def prepare(self, batch: Batch, rng: Array) -> Batch:
        """What happens to a whole training batch first, such as mixing its images. `rng` is of this step."""
        del rng
        return batch

    def loss(
        self, model: nn.Module, variables: Variables, batch: Batch, rng: Array, train: bool
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        """The loss of a batch.

        Args:
          model: the network.
          variables: `params` and the other collections.
          batch: leaves `[b ...]`; images are scaled already.
          rng: of this step; everything random is drawn from it.
          train: whether it is differentiated, or evaluates held-out data.

        Returns:
          The mean loss, and (metrics `[b]` by name with the value of each example, `loss` among them;
          the new state of the collections other than `params`).
        """
        raise NotImplementedError

    def post_update(self, model: nn.Module, variables: Variables) -> Variables:
        """What must happen after the optimizer's step, to parameters or collections."""
        return variables
