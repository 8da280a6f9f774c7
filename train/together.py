"""What the processes of a run decide together."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.errors import UserError


def of_first(value: int) -> int:
    """The value that process 0 has, below 2**31; every process must ask."""
    return value if jax.process_count() == 1 else int(broadcast_one_to_all(np.int32(value)))


def check_same(what: str, value: int, unit: str) -> None:
    """Whether a number is the same on all processes, each of which must ask.

    Args:
      what: that has it, for the message.
      value: below 2**31.
      unit: of it, for the message.

    Raises:
      UserError: it is another one than on process 0.
    """
    first = of_first(value)
    if first != value:
        raise UserError(f'{what}: {value:,} {unit} here, {first:,} for process 0: every host needs a copy of the same')


class Agreement:
    """Whether any process wishes something, known to all at the same step.

    The wishes go the way of the step's own numbers: computed by the devices behind each step and read behind the next,
    so that nothing waits for them. JAX's `reached_preemption_sync_point` asks the coordination service instead, and
    holds Python's global lock while it waits.

    Args:
      mesh: of the run.
    """

    def __init__(self, mesh: Mesh):
        if jax.process_count() == 1:
            return
        spread, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((mesh.axis_names,), ()))
        self._wishes = [
            jax.make_array_from_callback((mesh.size,), spread, np.full(mesh.size, wish).__getitem__)
            for wish in (False, True)
        ]
        self._any = jax.jit(jnp.any, out_shardings=whole)
        self._before = self._any(self._wishes[False])

    def __call__(self, wish: bool) -> bool:
        """Every process must ask once in every step; of several, the answer is that of the step before."""
        if jax.process_count() == 1:
            return wish
        answer, self._before = self._before, self._any(self._wishes[wish])
        return bool(answer)
