"""What a constructor's argument may be, by its annotation and its name: checked for every module in one place.

What depends on more than one argument (patches that tile an image) or on the input is checked where it is used.
"""

import math
import numbers
import operator
import re
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal

import numpy as np
from flax import linen as nn
from flax.core import FrozenDict


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, those included unless `above` or `below` says otherwise.

    Attributes:
      empty: a sequence of them may have none.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    empty: bool = False

    def __contains__(self, value: float) -> bool:
        enough = value > self.low if self.above else value >= self.low
        return enough and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        """'at least 0 and below 1'; a limit that is only there to be no infinity goes without saying."""
        if (self.low, self.high, self.above, self.below) == (0, 1, False, False):
            return 'between 0 and 1'
        low = f'{"above" if self.above else "at least"} {self.low}' if self.low > -math.inf else ''
        high = f'{"below" if self.below else "at most"} {self.high}' if self.high < 10_000 else ''
        return ' and '.join(filter(None, (low, high)))

    def asked_of(self, value: float) -> str:
        """What a number outside is asked to be."""
        return f'at most {self.high}' if value > self.high >= 10_000 else str(self)


ANY = Range(empty=True)
# Up to 2**24 float32 counts exactly; widths inside of a model are products of such sizes.
SIZE, COUNT, WIDTH = Range(1, 2**24), Range(0, 2**24), Range(0)
# each block that is not scanned is traced for itself
LAYERS = Range(0, 10_000)
POSITIVE, FACTOR = Range(0, above=True), Range(0, 10**6, above=True)
SHARE, SHARE_BELOW_ONE, SHARE_ABOVE_ZERO = Range(0, 1), Range(0, 1, below=True), Range(0, 1, above=True)

# The first pattern that the whole name matches counts.
INTEGERS = (
    (r'n_conv_layers', Range(1, 100)),
    (r'axis|\w+_axes|layer|(\w+_)?(hidden|merge)_layer|causal_dims|\w+_indices', ANY),
    (r'interactions|pathways|\w+_id|output_pos_\w+', ANY),
    (r'layers', replace(LAYERS, empty=True)),
    (r'(\w+_)?(depths?|layers|blocks|iterations)|block_repeats|orders', LAYERS),
    (
        r'(\w+_)?(padding|pad|classes|registers?|bins)|num_register_\w+|(num_)?reg_tokens|swiglu_align_to|out_features',
        COUNT,
    ),
    (r'features|rows|width|hidden|hidden_dim', WIDTH),
    (r'groups', Range(1)),
    (r'\w+_seed|num_memories_per_layer', COUNT),
    (r'.*', SIZE),
)
NUMBERS = (
    (
        r'(\w+_)?(drop|drop_path)_rate|(patch|mbconv)_dropout|token_dropout_prob|drop_ratio|label_smoothing|stochastic_depth_rate',
        SHARE_BELOW_ONE,
    ),
    (r'\w*(dropout|dropout_rate|_prob|_decay|p_zero_freqs|sample_frac|lerp_scale_init)|rate|alpha', SHARE),
    (r'\w*crop_scale', SHARE_ABOVE_ZERO),
    (r'\w*(factor|mult|mlp_ratio|expansion|expansion_rate|shrinkage_rate)|mlp_dim', FACTOR),
    (r'\w*(eps|epsilon|temp|temperature|freq|pixel_val|range)|spec_power', POSITIVE),
    (r'.*', ANY),
)
# Annotated as anything, since objectives read what mypy cannot know; they must be networks all the same.
NETWORKS = re.compile(r'encoder|net|image_net|student|teacher|vit|transformer')


class Network:
    """Stands for a linen module, or what can be called or applied as one."""


class Unfit(Exception):
    """A value is not what its annotation says."""


def check_arguments(owner: Any) -> None:
    """Checks a dataclass that has just been built, and makes it hash and compare by value: its lists become tuples.

    Raises:
      ValueError: an argument that can never be right: its name, its value, and what would be.
    """
    owner_class: Any = type(owner)
    for name in _annotations(owner_class):
        value = getattr(owner, name)
        fit = check_argument(owner_class, name, value)
        if fit is not value:
            object.__setattr__(owner, name, fit)


def check_argument(owner: Any, name: str, value: Any) -> Any:
    """The value of one argument of a class as it is kept.

    Raises:
      ValueError: it can never be right: its name, its value, and what would be.
    """
    annotation = _annotations(owner)[name]
    try:
        return _fit(annotation, name, value)
    except Unfit:
        wanted = _asked_of(annotation, name, value)
        raise ValueError(f'{name}={_short(value)} must be {wanted}') from None


@cache
def _annotations(owner: Any) -> dict[str, Any]:
    """Of what is given to the constructor, but for the dtypes and linen's own."""
    hints = typing.get_type_hints(owner)
    others = {'parent', 'name', 'dtype', 'param_dtype'}
    found = {}
    for field in fields(owner):
        if field.init and field.name not in others:
            network = hints[field.name] is Any and NETWORKS.fullmatch(field.name)
            of_network = Network | None if field.default is None else Network
            found[field.name] = of_network if network else hints[field.name]
    return found


def _choices(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _kind(annotation: Any) -> Any:
    return typing.get_origin(annotation) or annotation


def _range(rules: Sequence[tuple[str, Range]], name: str) -> Range:
    return next(wanted for pattern, wanted in rules if re.fullmatch(pattern, name))


def _fit(annotation: Any, name: str, value: Any) -> Any:
    """The value as it is kept."""
    for choice in _choices(annotation):
        try:
            return _fit_one(choice, name, value)
        except Unfit:
            continue
    raise Unfit


def _fit_one(annotation: Any, name: str, value: Any) -> Any:
    kind, inner = _kind(annotation), typing.get_args(annotation)
    if kind in (int, float):
        return _fit_number(kind, name, value)
    if kind in (Sequence, tuple):
        return _fit_sequence(inner, name, value)
    if kind is Any:
        fits = True
    elif kind is Network:
        fits = callable(value) or hasattr(value, 'apply')
    elif kind is Callable or getattr(kind, '_is_protocol', False):
        fits = callable(value)
    elif kind is dict:
        fits = isinstance(value, Mapping)
    elif kind is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in inner)
    else:
        fits = isinstance(value, (bool, np.bool_) if kind is bool else kind)
    if not fits:
        raise Unfit
    return frozen(value)


def _fit_number(kind: type, name: str, value: Any) -> Any:
    number: Any
    if isinstance(value, bool | np.bool_):
        raise Unfit
    if kind is int:
        try:
            number = operator.index(value)
        except TypeError:
            raise Unfit from None
        fits = number in _range(INTEGERS, name)
    else:
        if not isinstance(value, numbers.Real):
            raise Unfit
        # JAX takes no integer of more than 32 bits, which a square may have; no float holds one of more than 1024
        number = value
        if abs(number) >= 2**15:
            number = float(number) if abs(number) < 10**300 else math.inf
        fits = math.isfinite(number) and number in _range(NUMBERS, name)
    if not fits:
        raise Unfit
    return number


def _fit_sequence(inner: tuple, name: str, value: Any) -> tuple:
    if not isinstance(value, list | tuple) and not (isinstance(value, np.ndarray) and value.ndim):
        raise Unfit
    values = value.tolist() if isinstance(value, np.ndarray) else value
    if len(inner) > 1 and inner[-1] is not Ellipsis:
        if len(values) != len(inner):
            raise Unfit
        return tuple(_fit(one, name, item) for one, item in zip(inner, values, strict=True))
    if not values and _kind(inner[0]) in (int, Sequence, tuple) and not _range(INTEGERS, name).empty:
        raise Unfit
    return tuple(_fit(inner[0], name, item) for item in values)


def frozen(value: Any) -> Any:
    """Lists and dicts, also inside of each other, as tuples and frozen dicts, which hash and compare by value."""
    if isinstance(value, Mapping):
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def _asked_of(annotation: Any, name: str, value: Any) -> str:
    """What would be right in the place of a value that is not."""
    for choice in _choices(annotation):
        rules = {int: INTEGERS, float: NUMBERS}.get(choice)
        whole = isinstance(value, numbers.Integral) or (choice is float and isinstance(value, numbers.Real))
        if rules and whole and not isinstance(value, bool) and math.isfinite(value):
            return _range(rules, name).asked_of(value)
    return ' or '.join(_wanted(choice, name) for choice in _choices(annotation))


def _wanted(annotation: Any, name: str) -> str:
    kind, inner = _kind(annotation), typing.get_args(annotation)
    if kind is int:
        return f'an integer {_range(INTEGERS, name)}'.strip()
    if kind is float:
        return f'a finite number {_range(NUMBERS, name)}'.strip()
    if kind in (Sequence, tuple):
        one = ' or '.join(_wanted(choice, name) for choice in _choices(inner[0]))
        length = '' if kind is Sequence or inner[-1] is Ellipsis else f' of {len(inner)}'
        return f'a sequence{length}, each {one}'
    if kind is Callable or getattr(kind, '_is_protocol', False):
        return 'a function or a constructor'
    if kind is Literal:
        return f'one of {", ".join(map(repr, inner))}'
    names = {bool: 'True or False', str: 'a string', type(None): 'None', Mapping: 'a dict', dict: 'a dict'}
    names |= {nn.Module: 'a Flax module', Network: 'a Flax module'}
    return names.get(kind, f'a {kind.__module__}.{kind.__name__}')


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**24:
        return f'{"-" if value < 0 else ""}10**{int(math.log10(abs(value)))} or more'
    text = reprlib.repr(value) if isinstance(value, str | list | tuple | Mapping) else repr(value)
    if isinstance(value, nn.Module):
        text = f'{type(value).__name__}(...)'
    return text if len(text) < 80 else f'{text[:76]}...'
