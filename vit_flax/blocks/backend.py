"""The platform a program is traced for; a faster form for one platform is chosen by this."""

from typing import Any

import jax


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': that of JAX's default device.

    A choice by it may only be one of speed, since arguments can be committed to another device, and a CPU can compile
    for a TPU.
    """
    device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform
