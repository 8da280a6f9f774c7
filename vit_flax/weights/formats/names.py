"""Nested containers to flat names and back."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vit_flax.printing import shown
from vit_flax.weights.formats.common import MAX_NAME, FileError

# A hundred bytes of shared containers can name more leaves than there are atoms.
MAX_DEPTH = 64
MAX_LEAVES = 2**20


class Pairs(list):
    """A dict as the pairs that make it: nothing is hashed, and a key that is there twice is seen."""

    def __repr__(self) -> str:
        return f'{{{len(self)} pairs}}'


def flatten(path: Path, tree: Any, limit: int = MAX_LEAVES) -> dict[str, Any]:
    """Leaves by their names; levels are joined with `/`, names that hold dots stay as they are.

    Args:
      path: the file, for messages.
      tree: mappings, `Pairs`, lists and tuples; anything else is a leaf.
      limit: containers and leaves to visit at most.

    Raises:
      FileError: two leaves of one name, keys that are no names, or more than the limit.
    """
    leaves: dict[str, Any] = {}
    left = min(limit, MAX_LEAVES)

    def visit(value: Any, name: str, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH or len(name) > MAX_NAME:
            raise FileError(f'{shown(path)}: refused: its containers are nested without end or shared without number')
        if isinstance(value, Mapping | Pairs):
            items: Iterable[Any] = value.items() if isinstance(value, Mapping) else value
        elif isinstance(value, list | tuple) and value:
            items = enumerate(value)
        elif name in leaves:
            raise FileError(f'{shown(path)}: refused: the name {shown(repr(name))} is there twice')
        else:
            leaves[name if depth else 'value'] = value
            return
        for key, item in items:
            if not isinstance(key, str | int | float | None):
                raise FileError(f'{shown(path)}: refused: a key under {shown(repr(name))} is no string and no number')
            visit(item, f'{name}/{key}' if depth else str(key), depth + 1)

    visit(tree, '', 0)
    return leaves


def below(path: Path, leaves: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The leaves whose names begin with `key/`, without it; all of them without a key.

    Raises:
      FileError: there are none.
    """
    if not key:
        return dict(leaves)
    found = {name[len(key) + 1 :]: leaf for name, leaf in leaves.items() if name.startswith(f'{key}/')}
    if not found:
        tops = sorted({name.partition('/')[0] for name in leaves if '/' in name})
        there = f'there are {shown(", ".join(tops))}' if tops else 'its names are not nested'
        raise FileError(f'{shown(path)} has nothing under {shown(repr(key))}: {there}')
    return found


def without_prefix(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The same under shorter names, where they begin with the prefix.

    Raises:
      FileError: two names become one.
    """
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        short = name.removeprefix(prefix)
        if short in found:
            raise FileError(f'the name {shown(repr(short))} is there twice, with and without {prefix!r}')
        found[short] = array
    return found


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """`{'a/b': x}` to `{'a': {'b': x}}`.

    Raises:
      FileError: a name is both an array and a folder of others.
    """
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split('/')
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise FileError(f'{shown(repr(name))} stands below another array, which no folder can hold')
        if leaf in node:
            raise FileError(f'{shown(repr(name))} is an array and has others below it, which no folder can hold')
        node[leaf] = array
    return tree
