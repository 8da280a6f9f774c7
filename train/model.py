"""The network of a run: its constructor's arguments as typed options, and the module built from them."""

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp

from train.config import Model
from train.errors import UserError, nearest
from train.values import check_value
from vit_flax.blocks.backbone import Backbone
from vit_flax.registry import list_models, model_info, sized, stems

# Not options: the trainer sets the dtypes, linen the rest.
NOT_OPTIONS = {'dtype', 'param_dtype', 'parent', 'name'}
# Options that nobody needs to give, since they follow from the data: upstream's names for size, frames, channels,
# classes.
SIZES, FRAMES = ('image_size', 'img_size'), ('frames', 'num_frames')
CHANNELS, CLASSES = ('channels', 'n_input_channels', 'in_chans'), ('num_classes',)
FROM_DATA = (*SIZES, *FRAMES, *CHANNELS, *CLASSES)


@dataclass(frozen=True)
class Option:
    """One argument of a model's constructor."""

    type: Any
    default: Any
    help: str


def options(name: str) -> dict[str, Option]:
    """The arguments of a model that can be given on a command line, see `options_of`.

    Raises:
      UserError: no model or preset has this name.
    """
    return options_of(*_constructor(name))


def options_of(build: Callable[..., Any], preset: Mapping[str, Any]) -> dict[str, Option]:
    """A constructor's arguments that can be given on a command line: numbers, words, and lists of them.

    Args:
      build: a class, whose docstring explains its arguments.
      preset: defaults other than the constructor's own.
    """
    help_of: dict[str, str] = {}
    for ancestor in reversed(inspect.getmro(typing.cast(type, build))):  # a variant documents what it adds
        help_of |= _attribute_help(ancestor)
    found = {}
    for key, parameter in inspect.signature(build, eval_str=True).parameters.items():
        if key not in NOT_OPTIONS and _is_plain(parameter.annotation):
            default = preset.get(key, parameter.default)
            found[key] = Option(parameter.annotation, default, help_of.get(key, ''))
    return found


def build(config: Model, shape: tuple[int, ...], classes: int) -> Backbone:
    """The module, with the arguments that follow from the data filled in.

    Args:
      config: name and arguments.
      shape: of an image as the model sees it, `(h, w, c)`, or of a video, `(t, h, w, c)`.
      classes: how many there are.

    Raises:
      UserError: unknown or missing arguments, fewer classes than the data have, or a model of videos without any.
    """
    known = options(config.name)
    for key in config.args:
        if key not in known:
            raise UserError(f'model {config.name!r} has no argument {key!r}: {nearest(key, known)}')
        check_value(f'model.{key}', config.args[key], known[key].type)
    *time, height, width, channels = shape
    of_data: dict[str, Any] = dict.fromkeys(SIZES, height if height == width else (height, width))
    of_data |= dict.fromkeys(CHANNELS, channels) | dict.fromkeys(CLASSES, classes)
    of_data |= dict.fromkeys(FRAMES, time[0]) if time else {}
    args = {**{key: value for key, value in of_data.items() if key in known}, **config.args}
    if 'frames' in known and 'frames' not in args:
        raise UserError(f'model {config.name!r} takes videos, such as of --data.name video_folder, the data are images')
    if args.get('num_classes', classes) < classes:
        raise UserError(f'model.num_classes={args["num_classes"]} is below the {classes} classes of the data')
    constructor, preset = _constructor(config.name)
    try:
        return constructor(**{**preset, **args}, dtype=jnp.dtype(config.dtype))
    except ValueError as error:
        raise UserError(f'model {config.name!r} cannot be built like this: {error}') from error


def _constructor(name: str) -> tuple[Callable[..., Backbone], Mapping[str, Any]]:
    if name in stems():
        return model_info(name).build, {}
    found = sized(name)
    if found is None:
        raise UserError(f'model.name={name!r} is unknown: {nearest(name, list_models())}')
    info, kwargs = found
    return info.build, kwargs


def _is_plain(hint: Any) -> bool:
    if hint in (int, float, bool, str, type(None)):
        return True
    origin = typing.get_origin(hint)
    if origin is Literal:
        return True
    if origin in (typing.Union, types.UnionType, Sequence, tuple, list):
        return all(_is_plain(part) for part in typing.get_args(hint) if part is not Ellipsis)
    return False


def _attribute_help(kind: type) -> dict[str, str]:
    """`name: text` of the docstring's section Attributes; `a, b: text` speaks of both, and "see `C`" is what C says."""
    _, _, section = inspect.cleandoc(kind.__doc__ or '').partition('Attributes:\n')
    section = re.split(r'\n(?=\S)', section)[0]
    entries = re.findall(r'^  (\w[\w, ]*(?:\n    [\w, ]+)*): (.*(?:\n    .*)*)', section, flags=re.MULTILINE)
    found = {key: ' '.join(text.split()) for keys, text in entries for key in re.findall(r'\w+', keys)}
    for key, text in found.items():
        if elsewhere := re.match(r'see `(\w+)`', text):
            found[key] = _attribute_help(getattr(sys.modules[kind.__module__], elsewhere[1])).get(key, text)
    return found
