"""The base class of every module: computation dtype, parameter dtype and intermediates."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import DTypeLike

from vit_flax.blocks.arguments import check_arguments
from vit_flax.blocks.explicit_axes import axes_are_explicit, with_automatic_axes


class Module(nn.Module, kw_only=True):
    """A linen module with a computation dtype, a parameter dtype and taps.

    Attributes:
      dtype: computation dtype; None takes it from inputs and parameters, as linen does.
      param_dtype: dtype of newly initialised parameters.
      torch_names: rows `name here -> name in the PyTorch state dict`, read by `vit_flax.weights`.
        A name that is the same on both sides needs no row.
      torch_source: whose names these are: the `source` of `from_torch` that others translate to.
    """

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    torch_names: ClassVar[Mapping[str, Any]] = {}
    torch_source: ClassVar[str] = 'vit_pytorch'

    def __post_init__(self) -> None:
        check_arguments(self)
        super().__post_init__()

    @property
    def precision(self) -> dict[str, Any]:
        """The two dtypes, to hand to a submodule: `Dense(dim, **self.precision)`."""
        return {'dtype': self.dtype, 'param_dtype': self.param_dtype}

    @nn.nowrap
    def _call_wrapped_method(self, fun: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        # linen's one place through which every call of a method goes
        if self._state.in_setup and fun.__name__ != 'setup' and not hasattr(fun, 'compact'):
            # a helper of `setup` makes submodules: it is no call to be watched or shown in a table
            return fun(self, *args, **kwargs)
        # what `setup` makes is this very module's
        if self.scope is not None and fun.__name__ != 'setup' and axes_are_explicit():
            return with_automatic_axes(self, fun, args, kwargs)
        return super()._call_wrapped_method(fun, args, kwargs)

    def position_tables(self) -> Mapping[str, Any]:
        """Own parameters that are tables of positions, by name: a `blocks.position_tables.PositionTable` for each."""
        return {}

    def promote(self, *arrays: Array) -> tuple[Array, ...]:
        """Casts arrays to `dtype`, or to their common dtype when it is None."""
        return tuple(promote_dtype(*arrays, dtype=self.dtype))

    def cast(self, result: Array, *arrays: Array) -> Array:
        """A result computed in float32, in the dtype that `promote` would give these arrays."""
        return result.astype(self.dtype or jnp.result_type(*arrays))

    def tap(self, name: str, x: Array) -> Array:
        """Shows an intermediate under a name and returns it; free unless `intermediates` is mutable."""
        self.sow('intermediates', name, x)
        return x

    @property
    def tapped(self) -> bool:
        """Whether the caller reads intermediates in this call."""
        return self.is_mutable_collection('intermediates')


def example_inputs(model: Any) -> tuple[Any, ...]:
    """Inputs that fit a model, for tracing: its `example_input()`, one array or a tuple of them, as a tuple."""
    example = model.example_input()
    return example if isinstance(example, tuple) else (example,)
