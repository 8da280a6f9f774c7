"""The platform a program is traced for; a faster form for one platform is chosen by this."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax

_target: ContextVar[str | None] = ContextVar('target', default=None)


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': what `compiling_for` says, else JAX's default device.

    A choice by it may only be one of speed, since arguments can be committed to another device.
    """
    device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    if target := _target.get():
        return target
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


@contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Within it programs are traced for another platform than the running one, as when a CPU compiles for a TPU."""
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)
