"""Settings of models that work in stages, each on a coarser grid than the one before."""

from typing import Any


def per_stage(name: str, value: Any, stages: int) -> tuple[Any, ...]:
    """One value for each stage: those given, or the same everywhere."""
    if not isinstance(value, list | tuple):
        return (value,) * stages
    if len(value) != stages:
        raise ValueError(f'{name}={tuple(value)} must be one value, or one for each of the {stages} stages')
    return tuple(value)
