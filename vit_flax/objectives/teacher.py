"""A network inside an objective that the optimizer does not see, frozen or a moving average: a teacher.

Its variables are in collections of their own: where the student's parameters are in `params/student/...`, a teacher's
are in `teacher_params/teacher/...`, its statistics in `teacher_batch_stats/teacher/...`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from vit_flax.blocks.precision import to_float32

PREFIX = 'teacher_'
PARAMS = f'{PREFIX}params'
# Collections that a network may have; intermediates stay where they are.
COLLECTIONS = ('params', 'batch_stats', 'constants')


def apply_teacher(call: Callable[..., Any], teacher: nn.Module, *args: Any, dtype: DTypeLike | None = None) -> Any:
    """`call(teacher, *args)` with the teacher's variables in its own collections; no gradient reaches them.

    Args:
      call: what to do with the teacher.
      teacher: a submodule of the objective.
      *args: further arguments of the call.
      dtype: of the parameters in the call. They are stored in float32 at least, as a moving average must be; None uses
        them as they are stored.
    """

    def read(stored: Array) -> Array:
        return stored.astype(dtype) if dtype is not None and jnp.finfo(dtype).bits < 32 else stored

    def inward(variables: Mapping[str, Any]) -> dict[str, Any]:
        held = {name.removeprefix(PREFIX): tree for name, tree in variables.items() if name.startswith(PREFIX)}
        return {**held, 'params': jax.tree.map(read, held.get('params', {}))}

    def outward(variables: Mapping[str, Any]) -> dict[str, Any]:
        held = {PREFIX + name: tree for name, tree in variables.items() if not name.startswith(PREFIX)}
        return held if dtype is None or PARAMS not in held else {**held, PARAMS: jax.tree.map(to_float32, held[PARAMS])}

    names = [*COLLECTIONS, *(PREFIX + name for name in COLLECTIONS)]
    return jax.lax.stop_gradient(nn.map_variables(call, names, inward, outward, mutable=True)(teacher, *args))


def teacher_variables(objective_variables: Mapping[str, Any], name: str = 'teacher') -> dict[str, Any]:
    """The variables of a teacher, as `teacher.apply` takes them, out of those of its objective."""
    return {
        collection.removeprefix(PREFIX): tree[name]
        for collection, tree in objective_variables.items()
        if collection.startswith(PREFIX) and name in tree
    }


def with_teacher(
    objective_variables: Mapping[str, Any], teacher_variables: Mapping[str, Any], name: str = 'teacher'
) -> dict[str, Any]:
    """The variables of an objective with those of a trained teacher in them.

    Args:
      objective_variables: as its `init` made them.
      teacher_variables: what `teacher.apply` takes.
      name: of the teacher within the objective.

    Raises:
      ValueError: other collections than the objective has.
    """
    held = {key.removeprefix(PREFIX) for key, tree in objective_variables.items() if key.startswith(PREFIX) and tree}
    if held != set(teacher_variables):
        raise ValueError(
            f'the teacher has the collections {sorted(teacher_variables)}, the objective holds {sorted(held)} of it'
        )
    changed = {
        PREFIX + key: {**objective_variables[PREFIX + key], name: tree} for key, tree in teacher_variables.items()
    }
    return {**objective_variables, **changed}


def copy_of_student(params: Mapping[str, Any], student: str) -> dict[str, Any]:
    """Parameters for a teacher that is a copy of a projected network, whose `net` is the objective's `encoder`."""
    return jax.tree.map(to_float32, {'net': params['encoder'], **params[student]})


def follow_student(
    objective_variables: Mapping[str, Any], name: str, student: str, decay: float | Array
) -> dict[str, Any]:
    """The variables of an objective with a teacher one step of its moving average closer to its student."""
    teachers = objective_variables[PARAMS]
    moved = ema_update(teachers[name], copy_of_student(objective_variables['params'], student), decay)
    return {**objective_variables, PARAMS: {**teachers, name: moved}}


def ema_update(average: Any, new: Any, decay: float | Array) -> Any:
    """Exponential moving average of two trees, in float32 at least: in 16 bits a decay of 0.996 would move nothing."""
    return jax.tree.map(lambda a, b: to_float32(b) + (to_float32(a) - to_float32(b)) * decay, average, new)
