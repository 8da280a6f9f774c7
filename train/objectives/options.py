"""Options of an objective, made from the arguments of a loss of `vit_flax.objectives` and of its views."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import tyro

from train.model import Option, options_of
from vit_flax.objectives.objective import Objective as Loss
from vit_flax.objectives.views import MultiCrop

Kind = TypeVar('Kind', bound=type)
NONE: Mapping[str, str] = MappingProxyType({})


def trains(
    loss: type[Loss],
    views: MultiCrop | None = None,
    names: Mapping[str, str] = NONE,
    without: Collection[str] = (),
) -> Callable[[Kind], Kind]:
    """Decorates a subclass of `Pretraining`: each argument of the loss and of its views becomes a field.

    Types and help are those of the argument, defaults the paper's. Fields of the class itself are options too.

    Args:
      loss: the objective, with `PAPER`.
      views: the paper's views, where the loss takes views of images.
      names: argument -> name of its option, where they differ.
      without: arguments that are no options, since they follow from the network, the data or other options.
    """

    def made(kind: Kind) -> Kind:
        base: Any = dataclasses.dataclass(frozen=True)(kind)
        parts: list[tuple[type, Mapping[str, Any]]] = [(loss, loss.PAPER)]
        parts += [(MultiCrop, vars(views))] if views else []
        options: dict[str, Option] = {}
        arguments = []
        for build, preset in parts:
            found = {key: option for key, option in options_of(build, preset).items() if key not in without}
            options |= {names.get(key, key): option for key, option in found.items()}
            arguments.append({names.get(key, key): key for key in found})
        fields: list[Any] = [
            (name, Annotated[option.type, tyro.conf.arg(help=option.help)], dataclasses.field(default=option.default))
            for name, option in options.items()
        ]
        namespace = {
            '__module__': kind.__module__,
            '__doc__': kind.__doc__,
            'loss_class': loss,
            'paper_views': views,
            'arguments': arguments[0],
            'view_arguments': arguments[1] if views else {},
        }
        return dataclasses.make_dataclass(  # type: ignore[return-value]
            kind.__name__, fields, bases=(base,), namespace=namespace, frozen=True
        )

    return made
