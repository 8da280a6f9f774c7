"""The platform a program is compiled for, and all that is decided by it: at trace time, and nowhere else.

Tracing does not know where a program will run, so it is taken to be, in this order,

1. the platform of `with compiling_for(...)`;
2. that of the mesh in use, `with jax.set_mesh(mesh)`;
3. that of `with jax.default_device(...)`;
4. JAX's default backend.

Arguments committed to another platform's devices do not show in a trace: a GPU host that jits for its CPU does so in
`with jax.default_device(jax.devices('cpu')[0])` or in `compiling_for('cpu')`. All of these are part of the cache key
of `jax.jit`, so that one jitted function is traced once for each platform. Every form chosen here gives the
same result everywhere, with one exception: the fused attention of GPUs is not lowered for others. Which form is faster
was measured on CPUs alone.
"""

from contextlib import AbstractContextManager
from typing import Any

import jax

# lowering calls the two kinds of GPU by these names
_ALIASES = {'cuda': 'gpu', 'rocm': 'gpu'}

_context = jax.make_user_context(None)
_cudnn = jax.make_user_context(True)


def compiling_for(platform: str) -> AbstractContextManager[None]:
    """A context in which programs are traced for a platform other than that of JAX's default device.

    For a program that is compiled for devices that are not here, or is run on a mesh of other devices.

    Args:
      platform: 'cpu', 'gpu' (or 'cuda', 'rocm') or 'tpu', or what `device.platform` of a device here says.

    Raises:
      ValueError: there is no such platform.
    """
    known = {'cpu', 'gpu', 'tpu', *_ALIASES}
    if platform not in known and platform != jax.default_backend():
        raise ValueError(f'platform={platform!r} must be one of {", ".join(sorted(known))}')
    return _context(_ALIASES.get(platform, platform))


def without_cudnn() -> AbstractContextManager[None]:
    """A context in which attention on a GPU forms its map.

    For forward mode, `jax.jvp`, `jax.jacfwd` and `jax.hessian`, in 16 bits on a GPU: cuDNN's fused attention has
    derivatives in reverse mode alone, of first order.
    """
    return _cudnn(False)


def platform() -> str:
    """The platform that is traced for: 'cpu', 'gpu', 'tpu', or another that JAX has a plugin for."""
    if _context.value is not None:
        return _context.value
    device: Any = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


def uses_cpu_kernels() -> bool:
    """Whether convolutions and pooling take the forms of `blocks.kernels` instead of XLA's own operation."""
    return platform() == 'cpu'


def merges_leading_axes() -> bool:
    """Whether a product `[... c] [c d]` is computed as `[n c] [c d]`.

    The gradient of the kernel is then one plain matrix product, which shortened a training step by a third on one
    CPU. Elsewhere the axes are left alone, since merging axes that are sharded would gather them.
    """
    return platform() == 'cpu'


def rounds_products() -> bool:
    """Whether a product in 16 bits is rounded before its bias is added: writing it in float32 moves
    twice the bytes, which was not measured on a GPU."""
    return platform() == 'gpu'


def has_cudnn() -> bool:
    """Whether cuDNN's fused attention may be tried."""
    return platform() == 'gpu' and _cudnn.value
