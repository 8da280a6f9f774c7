"""FLOPs of a traced program: matrix products and convolutions, a multiplication and an addition being two.

XLA's cost analysis counts what stands in a loop once, whatever its length. This count multiplies by the length of a
scan, and leaves out everything element-wise, as a model FLOPs utilisation (MFU) does.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr


def flops(function: Callable[..., Any], *args: Any) -> int:
    """Of a function of arrays, or of their shapes and dtypes. Nothing is computed."""
    return count(jax.make_jaxpr(function)(*args).jaxpr)


def count(jaxpr: Jaxpr) -> int:
    """Of a traced program, for all devices together. Of two branches the larger counts, and the body of a loop whose
    length depends on data once, and what no result depends on not at all."""
    alive, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return sum(_of_equation(equation) for equation in alive.eqns)


def _of_equation(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
        (contracted, _), _ = params['dimension_numbers']
        left = _shape(equation.invars[0])
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)
    if name == 'conv_general_dilated':
        return _convolution(equation)
    inside = [count(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if not inside:
        return 0
    if name == 'cond':
        return max(inside)
    if name == 'scan':
        return params['length'] * sum(inside)
    if name == 'shard_map':  # its body is that of one device
        return sum(inside) * math.prod(params['mesh'].shape[axis] for axis in params['manual_axes'])
    if name == 'pallas_call':
        return sum(inside) * math.prod(params['grid_mapping'].grid)
    return sum(inside)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _jaxprs(part)


def _convolution(equation: JaxprEqn) -> int:
    params, (left, right) = equation.params, map(_shape, equation.invars)
    inputs, kernel, outputs = params['dimension_numbers']
    result = _shape(equation.outvars[0])
    positions = math.prod(
        valid_pairs(
            left[inputs[i + 2]],
            result[outputs[i + 2]],
            right[kernel[i + 2]],
            stride=params['window_strides'][i],
            pad=params['padding'][i][0],
            gap=params['lhs_dilation'][i],
            hole=params['rhs_dilation'][i],
        )
        for i in range(len(inputs) - 2)
    )
    batch, features = result[outputs[0]], result[outputs[1]]
    return 2 * positions * right[kernel[1]] * batch * features


def valid_pairs(size: int, outputs: int, taps: int, *, stride: int, pad: int, gap: int, hole: int) -> int:
    """Of one axis of a convolution: pairs of an output and a tap of the kernel that meet an element of the input, and
    neither padding nor a hole of a dilated input.

    Args:
      size: of the input.
      outputs: of the output.
      taps: of the kernel.
      stride: of the window.
      pad: elements before the first.
      gap: dilation of the input.
      hole: dilation of the kernel.
    """
    reach = (size - 1) * gap + 1
    return sum(
        1
        for output in range(outputs)
        for tap in range(taps)
        if 0 <= (at := output * stride - pad + tap * hole) < reach and at % gap == 0
    )
