"""From bytes of images to what a network takes."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from train.objectives.objective import Batch


@dataclass(frozen=True)
class Scale:
    """Bytes of images -> numbers around zero; on the device, since bytes travel faster.

    Attributes:
      mean, std: of each channel, or one for all, of images from 0 to 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, batch: Batch) -> Batch:
        return {name: self.leaf(value) if value.dtype == jnp.uint8 else value for name, value in batch.items()}

    def leaf(self, images: Array | np.ndarray) -> Array:
        """uint8 `[... c]` -> float32 `[... c]`."""
        mean, std = self._arrays()
        return jnp.asarray(images, jnp.float32) * (1 / (255 * std)) - mean / std

    def views(self, images: Array) -> Array:
        """Images from 0 to 1, `[... c]`, in the same scale."""
        mean, std = self._arrays()
        return (images - mean) / std

    def shown(self, images: np.ndarray) -> np.ndarray:
        """Back to images from 0 to 1, `[... c]`."""
        mean, std = self._arrays()
        return np.clip(images * std + mean, 0, 1)

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
