"""State dicts of timm's VisionTransformer."""

from collections.abc import Mapping

import numpy as np
from flax import linen as nn


def read(model: nn.Module, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As they are: `VisionTransformer` has timm's names."""
    return dict(state_dict)


def write(model: nn.Module, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(state_dict)
