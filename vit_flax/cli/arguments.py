"""A model's constructor on the command line: `--model vit --arg dim=192 --arg pool=mean`."""

import argparse
import ast
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flax import linen as nn

from vit_flax.card import ModelCard
from vit_flax.cli.errors import UserError, as_user_error, nearest
from vit_flax.registry import list_models, model_info, sized, stems

# linen's own, and the dtypes, which follow from the file.
NOT_OPTIONS = {'dtype', 'param_dtype', 'parent', 'name'}
# Ours alone: they change how a result is computed, never the result.
OURS = {'scan', 'remat'}
WORDS = {'true': True, 'false': False, 'none': None}


@dataclass(frozen=True)
class Option:
    """One argument of a constructor; `given_as_text` is False for modules and functions."""

    type: Any
    default: Any
    help: str
    given_as_text: bool

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


def find(name: str) -> tuple[str, ModelCard, Mapping[str, Any]]:
    """Stem, `CARD` and keyword arguments of a model's or a preset's name.

    Raises:
      UserError: no such name.
    """
    if name in stems():
        return name, model_info(name), {}
    found = sized(name)
    if found is None:
        raise UserError(f'no model is called {name!r}: {nearest(name, list_models())}')
    info, kwargs = found
    return next(stem for stem in stems() if model_info(stem) is info), info, kwargs


def options(info: ModelCard) -> dict[str, Option]:
    """The arguments of a constructor, explained by the class and its bases: a variant documents what it adds."""
    help_of: dict[str, str] = {}
    for ancestor in reversed(inspect.getmro(typing.cast(type, info.build))):
        help_of |= _attribute_help(ancestor.__doc__ or '')
    return {
        key: Option(parameter.annotation, parameter.default, help_of.get(key, ''), _is_plain(parameter.annotation))
        for key, parameter in inspect.signature(info.build, eval_str=True).parameters.items()
        if key not in NOT_OPTIONS
    }


@dataclass(frozen=True)
class Chosen:
    """What `--model`, `--preset` and `--arg` ask for.

    Attributes:
      stem: of the model's file.
      info: the card of the file.
      kwargs: for the constructor, a preset's included.
    """

    stem: str
    info: ModelCard
    kwargs: Mapping[str, Any]

    def build(self, **extra: Any) -> nn.Module:
        """The module.

        Raises:
          UserError: the constructor refuses its arguments.
        """
        with as_user_error(f'model {self.stem!r}'):
            return self.info.build(**{**self.kwargs, **extra})


def chosen_model(args: argparse.Namespace) -> Chosen:
    """Reads the three options.

    Raises:
      UserError: an unknown name, an unknown, missing or wrongly typed argument.
    """
    name = args.model or args.preset
    if not name or name == 'paper':
        raise UserError('which model? Give --model NAME, or --preset NAME for a ready-made size')
    stem, info, kwargs = find(name)
    if args.preset and args.model:
        sizes = {**info.presets, 'paper': info.paper_size}
        if args.preset not in sizes:
            raise UserError(f'--preset {args.preset!r} is no preset of {stem!r}: {nearest(args.preset, sizes)}')
        kwargs = sizes[args.preset]
    known = options(info)
    given = {}
    for key, text in split_arguments(args.arg, '--arg').items():
        if key not in known:
            raise UserError(f'--arg {key}: model {stem!r} has no argument {key!r}: {nearest(key, known)}')
        given[key] = parse(f'--arg {key}', text, known[key])
    missing = [key for key, option in known.items() if option.required and key not in {**kwargs, **given}]
    if missing:
        raise UserError(
            f'model {stem!r} also needs {" ".join(f"--arg {key}=..." for key in missing)} '
            '(or --preset, where the size is a published one)'
        )
    return Chosen(stem, info, {**kwargs, **given})


def split_arguments(pairs: Sequence[str], option: str) -> dict[str, str]:
    """`['dim=8', ...]` to `{'dim': '8', ...}`."""
    found: dict[str, str] = {}
    for text in pairs:
        key, equals, value = text.partition('=')
        key = key.strip().replace('-', '_')
        if not equals or not key:
            raise UserError(f'{option} {text!r} must be KEY=VALUE')
        if key in found:
            raise UserError(f'{option} {key} is given twice')
        found[key] = value.strip()
    return found


def literal(text: str) -> Any:
    """`3`, `0.5`, `1,2`, `(1, (2, 3))`, `true`, `none`; anything else is a word."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return _tuples(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def parse(what: str, text: str, option: Option) -> Any:
    """A value of the argument's type.

    Raises:
      UserError: the text is none, or the argument takes a module.
    """
    if not option.given_as_text:
        raise UserError(f'{what} takes {type_name(option.type)}, which no command line can give: build it in Python')
    for value in (literal(text), text):
        if _fits(value, option.type):
            return float(value) if option.type is float else value
    raise UserError(f'{what}={text!r} must be {type_name(option.type)}')


def type_name(hint: Any) -> str:
    """An annotation as a reader would say it: `int | tuple of int`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return 'none'
    if origin is Literal:
        return ' | '.join(map(repr, parts))
    if origin in (typing.Union, types.UnionType):
        return ' | '.join(type_name(part) for part in parts)
    if _is_sequence(origin):
        inner = [type_name(part) for part in parts if part is not Ellipsis]
        if origin is tuple and Ellipsis not in parts:
            return f'({", ".join(inner)})'
        return f'list of {inner[0] if " " not in inner[0] else f"({inner[0]})"}' if inner else 'list'
    if isinstance(hint, type):
        return (
            hint.__name__
            if hint in (int, float, bool, str)
            else 'a module'
            if issubclass(hint, nn.Module)
            else 'an object'
        )
    return 'a constructor' if _is_callable(origin) else 'anything'


def _is_callable(origin: Any) -> bool:
    return origin is not None and isinstance(origin, type) and issubclass(origin, Callable)  # type: ignore[arg-type]


def _is_sequence(origin: Any) -> bool:
    return origin in (Sequence, tuple, list)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if _is_sequence(origin):
        if not isinstance(value, tuple):
            return False
        if origin is tuple and Ellipsis not in parts:
            return len(value) == len(parts) and all(map(_fits, value, parts))
        return all(_fits(item, parts[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def _is_plain(hint: Any) -> bool:
    """Whether a value of this type, or of a part of the union, can be written as text."""
    if hint in (int, float, bool, str, type(None)):
        return True
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_is_plain(part) for part in parts if part is not type(None))
    return _is_sequence(origin) and all(_is_plain(part) for part in parts if part is not Ellipsis)


def _attribute_help(docstring: str) -> dict[str, str]:
    """`name: text` of the docstring's section Attributes; `a, b: text` speaks of both."""
    _, _, section = inspect.cleandoc(docstring).partition('Attributes:\n')
    section = re.split(r'\n(?=\S)', section)[0]
    entries = re.findall(r'^  (\w[\w, ]*): (.*(?:\n    .*)*)', section, flags=re.MULTILINE)
    return {key: ' '.join(text.split()) for keys, text in entries for key in keys.split(', ')}
