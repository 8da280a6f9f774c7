"""How an array changes between the frameworks: frozen data, each operation with its inverse."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Op(Protocol):
    """One array, both ways; shapes in the docstrings read `flax <-> torch`."""

    def to_flax(self, array: np.ndarray) -> np.ndarray: ...

    def to_torch(self, array: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Permute:
    """Axes in another order: torch's axis i is Flax's axis `axes[i]`."""

    axes: tuple[int, ...]

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(np.argsort(self.axes))

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(self.axes)


@dataclass(frozen=True)
class UnitAxes:
    """Axes of size one that only torch has, at these places of torch's shape: `[c] <-> [1 c 1 1]`."""

    axes: tuple[int, ...]

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        return np.squeeze(array, self.axes)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return np.expand_dims(array, self.axes)


@dataclass(frozen=True)
class Chain:
    """Operations one after another, in the direction from Flax to torch."""

    ops: tuple[Op, ...]

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        for op in reversed(self.ops):
            array = op.to_flax(array)
        return array

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        for op in self.ops:
            array = op.to_torch(array)
        return array


@dataclass(frozen=True)
class Inverse:
    """An operation the other way round: `Inverse(UnitAxes((0,)))` is `[1 c] <-> [c]`."""

    op: Op

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        return self.op.to_torch(array)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return self.op.to_flax(array)


KEEP = Chain(())

# `[in out] <-> [out in 1 1]`: a Dense where torch has a 1x1 convolution.
POINTWISE = Chain((Permute((1, 0)), UnitAxes((2, 3))))


def kernel_op(rank: int) -> Op:
    """`[*space in out] <-> [out in *space]`."""
    return Permute((rank - 1, rank - 2, *range(rank - 2))) if rank >= 2 else KEEP
