"""What process 0 decides for all processes of a run."""

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all


def of_first(value: int) -> int:
    """The value that process 0 has, below 2**31; every process must ask."""
    return value if jax.process_count() == 1 else int(broadcast_one_to_all(np.int32(value)))
