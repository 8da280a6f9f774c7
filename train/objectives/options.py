"""Options of an objective, made from the arguments of a loss of `vit_flax.objectives` and of its views."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import tyro

from train.errors import UserError
from train.model import options_of
from vit_flax.blocks.arguments import check_argument
from vit_flax.objectives.objective import Objective as Loss
from vit_flax.objectives.views import MultiCrop

Kind = TypeVar('Kind', bound=type)
# Of some options another spelling for what they are by default.
SPELLINGS: Mapping[str, tuple[Any, Any]] = {
    'local_size': (0, None),
    'mask_patch_size': (0, None),
    'hidden_layer': ('', -2),
}
NONE: Mapping[str, Any] = MappingProxyType({})


def trains(
    loss: type[Loss],
    views: MultiCrop | None = None,
    names: Mapping[str, str] = NONE,
    without: Collection[str] = (),
    defaults: Mapping[str, Any] = NONE,
) -> Callable[[Kind], Kind]:
    """Decorates a subclass of the trainer's `Objective`: each argument of the loss and of its views becomes a field.

    Types and help are those of the argument, defaults the paper's. Fields of the class itself are options too.

    Args:
      loss: the objective, with `PAPER`.
      views: the paper's views, where the loss takes views of images.
      names: argument -> name of its option, where they differ.
      without: arguments that are no options, since they follow from the network, the data or other options.
      defaults: of arguments, other than the paper's.
    """

    def made(kind: Kind) -> Kind:
        parts: list[tuple[type, Mapping[str, Any]]] = [(loss, {**loss.PAPER, **defaults})]
        parts += [(MultiCrop, vars(views))] if views else []
        annotations, options = inspect.get_annotations(kind), []
        for build, preset in parts:
            found = {key: option for key, option in options_of(build, preset).items() if key not in without}
            for key, option in found.items():
                annotations[names.get(key, key)] = Annotated[option.type, tyro.conf.arg(help=option.help)]
                setattr(kind, names.get(key, key), option.default)
            options.append({names.get(key, key): key for key in found})
        members = {
            '__annotations__': annotations,
            '__post_init__': normalise,
            'loss_class': loss,
            'paper_views': views,
            'arguments': options[0],
            'view_arguments': options[1] if views else {},
        }
        for name, member in members.items():
            setattr(kind, name, member)
        dataclasses.dataclass(frozen=True)(kind)  # changes the class itself
        return kind

    return made


def normalise(objective: Any) -> None:
    """Lists as tuples, and other spellings of a default as the default."""
    for name in (*objective.arguments, *objective.view_arguments):
        value = getattr(objective, name)
        spelling, default = SPELLINGS.get(name, (None, None))
        if isinstance(value, list):
            object.__setattr__(objective, name, tuple(value))
        elif spelling is not None and type(value) is type(spelling) and value == spelling:
            object.__setattr__(objective, name, default)


def values_of(objective: Any, arguments: Mapping[str, str]) -> dict[str, Any]:
    """The values of options, by the argument that each is."""
    return {argument: getattr(objective, option) for option, argument in arguments.items()}


def check_options(objective: Any) -> None:
    """Raises a `UserError` that names the first option of a value that its argument can never have."""
    for kind, arguments in ((objective.loss_class, objective.arguments), (MultiCrop, objective.view_arguments)):
        for option, argument in arguments.items():
            try:
                check_argument(kind, argument, getattr(objective, option))
            except ValueError as error:
                raise UserError(f'objective.{option}{str(error).removeprefix(argument)}') from error


def in_options(objective: Any, message: str) -> str:
    """A message about arguments as one about the options that they are."""
    for option, argument in {**objective.arguments, **objective.view_arguments}.items():
        message = re.sub(rf'\b{argument}=', f'objective.{option}=', message)
    return message
