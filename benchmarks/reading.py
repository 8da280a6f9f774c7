"""How many files and classes one reads to follow a model's forward pass, from `__call__` down.

    python benchmarks/reading.py [STEM ...]

Definitions are followed by the names in the source: methods by `self.name`, functions and classes by what a module
imports. The layers that stand for PyTorch's own (Dense, Conv, LayerNorm, activations, dtype rules, argument checks:
`VOCABULARY`) are counted apart, as one does not open `nn.Linear` to read a model; so is a method that only declares
something (`DECLARED`).
"""

import argparse
import ast
import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Any

from vit_flax.blocks.module import Module
from vit_flax.registry import model_info, stems

VOCABULARY = {'module', 'torch_like', 'precision', 'checks', 'arguments', 'backend', 'explicit_axes', 'depthwise',
              'volumes', 'pooling', 'unfold', 'kernels'}  # fmt: skip
DECLARED = {'position_tables', 'token_grids', 'example_input', 'layout', 'head', 'embed_tokens', 'patch_positions',
            'prefix_tokens', 'torch_names', 'precision', 'tap', 'promote', 'cast', 'tapped'}  # fmt: skip


def is_ours(thing: Any) -> bool:
    return getattr(thing, '__module__', '').startswith('vit_flax.')


def is_vocabulary(thing: Any) -> bool:
    return bool(VOCABULARY & set(thing.__module__.split('.')))


def references(function: Any, owner: type | None) -> Iterator[Any]:
    """The definitions of this library that a function's source names, with the class that owns a method."""
    function = inspect.unwrap(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield function.__globals__.get(node.id), None
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == 'self' and owner is not None:
                yield from method(owner, node.attr)
            else:
                yield getattr(function.__globals__.get(node.value.id), node.attr, None), None
        elif isinstance(node, ast.Attribute) and owner is not None and ast.unparse(node.value) == 'super()':
            for skipped in range(1, len(owner.__mro__)):
                yield from method(owner, node.attr, skipped)


def method(owner: type, name: str, skipped: int = 0) -> Iterator[tuple[Any, type | None]]:
    """The method or property of a class, defined in it or above; `super()` skips the first classes."""
    if name in DECLARED:
        return
    for cls in owner.__mro__[skipped:]:
        if name in vars(cls) and is_ours(cls):
            found = vars(cls)[name]
            found = found.fget if isinstance(found, property) else found
            if isinstance(found, types.FunctionType):
                yield found, owner
                yield cls, owner  # a base class: what is used of it is followed from the model
            return


def reached(model: type) -> tuple[set[type], set[Any]]:
    """Classes and functions on the way of a forward pass."""
    classes: set[type] = set()
    functions: set[Any] = set()
    open_: list[tuple[Any, type | None]] = [(model, None)]
    opened = set()
    while open_:
        thing, owner = open_.pop()
        if not isinstance(thing, type | types.FunctionType) or (thing, owner) in opened or not is_ours(thing):
            continue
        opened.add((thing, owner))
        if is_vocabulary(thing):
            continue
        if isinstance(thing, type):
            classes.add(thing)
            if owner is None:
                for name in ('setup', '__call__'):
                    open_ += method(thing, name)
        elif isinstance(thing, types.FunctionType):
            functions.add(inspect.unwrap(thing))
            open_ += references(thing, owner)
    return classes, functions


def count(stem: str) -> tuple[list[str], list[str], int]:
    """Files, classes, and the longest line of our classes above one of them, `Module` not counted."""
    classes, functions = reached(model_info(stem).build)
    files = sorted({thing.__module__.removeprefix('vit_flax.') for thing in classes | functions})
    above = max(len([base for base in cls.__mro__[1:] if is_ours(base) and base is not Module]) for cls in classes)
    return files, sorted(f'{cls.__module__.rpartition(".")[2]}.{cls.__name__}' for cls in classes), above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('stems', nargs='*', default=['vit', 'cait', 'levit'], help='models; `all` for every one')
    chosen = parser.parse_args().stems
    names = stems() if chosen == ['all'] else chosen
    for stem in names:
        files, classes, above = count(stem)
        print(f'{stem}: {len(files)} files, {len(classes)} classes, at most {above} of ours above one')
        if len(names) < 10:
            print(f'  files: {", ".join(files)}\n  classes: {", ".join(classes)}')


if __name__ == '__main__':
    main()
