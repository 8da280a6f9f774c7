"""What is frozen does not move: neither its parameters, nor its statistics, nor its result from step to step."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import jax

from train.optim import assign
from vit_flax.taps import Call, watch

Path = tuple[str, ...]


class Frozen:
    """The frozen parameters of a network, and the modules that have no others.

    Args:
      groups: see `train.config.Optim`.
      params: shapes suffice.
      followed: path of a module, or of what it keeps, to that of the one whose past it is an average of; see
        `Objective.followed`.
    """

    def __init__(self, groups: Sequence[tuple[str, str]], params: Any, followed: Callable[[Path], Path]):
        self._followed = followed
        self._leaves: set[Path] = set()
        self._modules: dict[Path, bool] = {}
        group_of = assign(groups, params) if any(group == 'frozen' for _, group in groups) else {}
        for path, group in group_of.items():
            parts = tuple(path.split('/'))
            if group == 'frozen':
                self._leaves.add(parts)
            for end in range(len(parts)):
                self._modules[parts[:end]] = self._modules.get(parts[:end], True) and group == 'frozen'

    def __bool__(self) -> bool:
        return bool(self._leaves)

    def evaluated(self) -> AbstractContextManager[None]:
        """A context in which a module of which nothing is trained is evaluated: it uses its statistics and does not
        update them, and its dropout is off."""

        def evaluate(call: Call) -> Call | None:
            if not self._modules.get(self._followed(call.path), False):
                return None
            places = list(inspect.signature(call.function).parameters)
            if 'train' not in places:
                return None
            place = places.index('train')
            if place < len(call.args):
                return replace(call, args=(*call.args[:place], False, *call.args[place + 1 :]))
            return replace(call, kwargs={**call.kwargs, 'train': False})

        return watch(before=evaluate) if self else nullcontext()

    def without_gradient(self, params: Any) -> Any:
        """The same parameters, of which no gradient reaches the frozen ones."""
        return jax.tree.map_with_path(
            lambda path, leaf: jax.lax.stop_gradient(leaf) if _parts(path) in self._leaves else leaf, params
        )

    def kept(self, old: Any, new: Any) -> Any:
        """New parameters with the frozen ones as they were, to the bit."""
        return jax.tree.map_with_path(lambda path, a, b: a if _parts(path) in self._leaves else b, old, new)

    def kept_state(self, old: Any, new: Any) -> Any:
        """The same for collections: the average of what does not move is not rounded anew."""
        return jax.tree.map_with_path(
            lambda path, a, b: a if self._followed(_parts(path)[1:]) in self._leaves else b, old, new
        )


def _parts(path: Any) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
