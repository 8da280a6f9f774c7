"""The one way to look inside a model that runs: inputs and outputs of its submodules, and their taps.

    logits, found = capture(model, variables, images, names=['embedding', 'transformer/block_3/attention'])

A name is a path inside the model: of a submodule, for the output of its call, or of a tap (`Module.tap`). The last of
several calls counts; in a scanned trunk `transformer/block/attention` is all layers at once, along a leading axis.
`capture` runs a model from outside, also under `jax.jit`, scan, remat and differentiation. `capturing` does the same
inside a module, around the call of a submodule, but cannot reach into a scanned or rematerialised part of it. Both rest
on `watch`, which shows every call of a method.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.core.scope import union_filters
from flax.traverse_util import flatten_dict
from jax.extend.core import get_opaque_trace_state

Path = tuple[str, ...]

# In `intermediates`, beside a module's own taps.
_INPUTS, _OUTPUT = 'inputs of the call', 'output of the call'


@dataclass(frozen=True)
class Call:
    """One call of a method of a bound module.

    Attributes:
      module: whose method is called.
      method: its name.
      function: the method itself, bound, for its signature.
      args, kwargs: what it is called with.
    """

    module: nn.Module
    method: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Of the module; `()` is the model itself."""
        return tuple(self.module.path)

    @property
    def place(self) -> Path | None:
        """Path of what the call shows: the module, the tap, or None if it is another method's."""
        if self.method == 'tap':
            return (*self.path, self.args[0] if self.args else self.kwargs['name'])
        return self.path if self.method == '__call__' else None

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The arrays among the positional arguments."""
        return tuple(value for value in self.args if isinstance(value, jax.Array | np.ndarray))


def watch(
    before: Callable[[Call], Call | None] | None = None, after: Callable[[Call, Any], Any] | None = None
) -> AbstractContextManager[None]:
    """A context that shows each call of a method of each module, in the order in which they begin or end.

    Inside a transformation (scan, remat, vmap) the arrays are tracers that must not leave it.

    Args:
      before: sees a call before it is made; if it returns another one, of the same `function` or of one in its place,
        that is made instead.
      after: sees a call and its output; if it returns something, that is the output instead.
    """

    def intercept(function: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], context: Any) -> Any:
        if context.module.scope is None:
            return function(*args, **kwargs)
        asked = Call(context.module, context.method_name, context.orig_method, args, kwargs)
        call = (before and before(asked)) or asked
        output = (function if call.function is asked.function else call.function)(*call.args, **call.kwargs)
        replaced = after(call, output) if after else None
        return output if replaced is None else replaced

    return nn.intercept_methods(intercept)


def capture(
    model: nn.Module,
    variables: Mapping[str, Any],
    *args: Any,
    names: str | Sequence[str],
    inputs: bool = False,
    argument: str = 'names',
    **kwargs: Any,
) -> tuple[Any, dict[str, Any]]:
    """`model.apply` that returns values from inside the model too.

    Args:
      model: any linen module.
      variables: its variables.
      *args: what it is called with.
      names: of submodules or taps, see above; one or several.
      inputs: of submodules, the tuple of arrays that they are called with instead of their output.
      argument: what the caller calls `names`, for the message.
      **kwargs: further arguments of `apply`.

    Returns:
      What `apply` returns, and the value of each name.

    Raises:
      ValueError: there is no such name; the nearest one is given.
    """
    wanted, known = _listed(names), set()

    def sow(call: Call, output: Any) -> None:
        place = '/'.join(call.place or ())
        if call.place and (call.method != 'tap' or not inputs):
            known.add(place)
        if call.method == '__call__' and place in wanted:
            call.module.sow('intermediates', _INPUTS if inputs else _OUTPUT, call.inputs if inputs else output)

    with watch(after=sow):
        output, shown = apply_with_taps(model, variables, *args, **kwargs)
    found = {'/'.join(path): values[-1] for path, values in flatten_dict(shown).items() if isinstance(values, tuple)}
    captured = {}
    for name in wanted:
        for key in [f'{name}/{_INPUTS}'] if inputs else [name, f'{name}/{_OUTPUT}']:
            if key in found:
                captured[name] = found[key]
    _check_found(captured, wanted, known, argument, 'the model', inputs)
    return output, captured


@contextmanager
def capturing(
    module: nn.Module, names: str | Sequence[str], *, inputs: bool = False, argument: str = 'names'
) -> Iterator[dict[str, Any]]:
    """A context around the call of a bound module, inside another one; fills the dict that it gives.

    Args:
      module: the bound module; names are paths from it.
      names, inputs, argument: as for `capture`.

    Raises:
      ValueError: at the end, there is no such name, or it stands inside a scanned or rematerialised trunk.
    """
    wanted, known = _listed(names), set()
    captured: dict[str, Any] = {}
    root, here = tuple(module.path), get_opaque_trace_state(convention='flax')

    def keep(call: Call, output: Any) -> None:
        inside = (call.place or ())[len(root) :]
        if not inside or call.path[: len(root)] != root or (call.method == 'tap' and inputs):
            return
        known.add(name := '/'.join(inside))
        # arrays of a transformation must not leave it
        if name in wanted and get_opaque_trace_state(convention='flax') == here:
            captured[name] = call.inputs if inputs else output

    with watch(after=keep):
        yield captured
    _check_found(captured, wanted, known, argument, type(module).__name__, inputs)


def apply_with_taps(model: nn.Module, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """`model.apply` with readable taps: its own result, and the `intermediates` collection apart."""
    mutable = kwargs.pop('mutable', False)
    output, state = model.apply(variables, *args, mutable=union_filters(mutable, 'intermediates'), **kwargs)
    rest = {name: value for name, value in state.items() if name != 'intermediates'}
    return (output if mutable is False else (output, rest)), state.get('intermediates', {})


def _listed(names: str | Sequence[str]) -> list[str]:
    return list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]


def _check_found(
    captured: Mapping[str, Any], wanted: Sequence[str], known: set[str], argument: str, owner: str, inputs: bool
) -> None:
    for name in wanted:
        if name in captured:
            continue
        if name in known:
            raise ValueError(
                f'{argument}={name!r} is inside a scanned or rematerialised part of {owner}, which gives nothing out: '
                'build it with scan=False and remat=False'
            )
        near = difflib.get_close_matches(str(name), sorted(known), n=1)
        hint = f'did you mean {near[0]!r}?' if near else f'there are {", ".join(sorted(known))}'
        kind = 'submodule' if inputs else 'submodule or tap'
        raise ValueError(f'{argument}={name!r} is no {kind} of {owner}: {hint}')
