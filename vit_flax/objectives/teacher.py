"""A network inside of an objective that the optimizer does not see: its variables stand in collections of their own.

Where the optimizer's are in `params/student/...`, a teacher's are in `teacher_params/teacher/...`, its statistics in
`teacher_batch_stats/teacher/...`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

PREFIX = 'teacher_'
# Collections that a network may have; taps stay where they are.
COLLECTIONS = ('params', 'batch_stats', 'constants')


def apply_frozen(owner: nn.Module, call: Callable[..., Any], module: nn.Module, *args: Any) -> Any:
    """`call(module, *args)` with the module's variables in the collections of a teacher; no gradient reaches them."""

    def inner(variables: Mapping[str, Any]) -> dict[str, Any]:
        return {name.removeprefix(PREFIX): tree for name, tree in variables.items() if name.startswith(PREFIX)}

    def outer(variables: Mapping[str, Any]) -> dict[str, Any]:
        return {PREFIX + name: tree for name, tree in variables.items() if not name.startswith(PREFIX)}

    names = [*COLLECTIONS, *(PREFIX + name for name in COLLECTIONS)]
    mapped = nn.map_variables(call, names, inner, outer, init=owner.is_initializing())
    return mapped(module, *args)


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
