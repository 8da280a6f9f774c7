"""Settings of models that work in stages, each on a coarser grid than the one before."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar('T')


def per_stage(name: str, value: T | Sequence[T], stages: int) -> tuple[T, ...]:
    """One value for each stage: those given, or the same everywhere."""
    if not isinstance(value, list | tuple):
        return (value,) * stages  # type: ignore[return-value]
    if len(value) != stages:
        raise ValueError(f'{name}={tuple(value)} must be one value, or one for each of the {stages} stages')
    return tuple(value)
