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
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from flax import linen as nn
from flax.core import FrozenDict


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, those included unless `above` or `below` says otherwise."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        enough = value > self.low if self.above else value >= self.low
        return enough and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f' {"above" if self.above else "at least"} {self.low}' if self.low > -math.inf else ''
        high = f' {"below" if self.below else "at most"} {self.high}' if self.high < math.inf else ''
        return low + (' and' if low and high else '') + high


ANY = Range()
# Up to 2**24 float32 counts exactly; widths inside of a model are products of such sizes.
SIZE, COUNT, WIDTH = Range(1, 2**24), Range(0, 2**24), Range(0)
# each block that is not scanned is traced for itself
LAYERS = Range(0, 10_000)
POSITIVE, NOT_NEGATIVE = Range(0, above=True), Range(0)
SHARE, SHARE_BELOW_ONE, SHARE_ABOVE_ZERO = Range(0, 1), Range(0, 1, below=True), Range(0, 1, above=True)

# The first pattern that the whole name matches counts.
INTEGERS = (
    (r'n_conv_layers', Range(1, 100)),
    (r'axis|\w+_axes|\w*layer|causal_dims|\w+_indices|interactions|pathways|\w+_id|output_pos_\w+', ANY),
    (r'(\w+_)?(depths?|layers|blocks|iterations)|block_repeats|orders', LAYERS),
    (r'(\w+_)?(padding|pad|classes|registers?|bins)|num_register_\w+', COUNT),
    (r'features|rows|width|hidden|hidden_dim|sequence_length', WIDTH),
    (r'num_(local|target_aug)_views|num_memories_per_layer', COUNT),
    (r'.*', SIZE),
)
NUMBERS = (
    (r'patch_dropout|token_dropout_prob|drop_ratio|label_smoothing|stochastic_depth_rate', SHARE_BELOW_ONE),
    (r'\w*(dropout|dropout_rate|_prob|_decay|p_zero_freqs)|rate|alpha|\w*sample_frac', SHARE),
    (r'\w*crop_scale', SHARE_ABOVE_ZERO),
    (r'\w*(eps|epsilon|temp|temperature|freq|factor|mult|ratio|expansion|pixel_val|expansion_rate|range)', POSITIVE),
    (r'\w*shrinkage_rate|mlp_dim', POSITIVE),
    (r'.*', ANY),
)
# Annotated as anything, since objectives read what mypy cannot know; they must be networks all the same.
NETWORKS = re.compile(r'encoder|net|image_net|student|teacher|vit|transformer')

PAIRS = re.compile(r'(?!mask_)\w*(image|img|patch)_size')


class Unfit(Exception):
    """A value is not what its annotation says."""


def check_arguments(owner: Any) -> None:
    """Checks a dataclass that has just been built, and makes it hash and compare by value: its lists become tuples.

    Raises:
      ValueError: an argument that can never be right: its name, its value, and what would be.
    """
    for name, annotation in _annotations(type(owner)).items():
        value = getattr(owner, name)
        try:
            fit = _fit(annotation, name, value)
        except Unfit:
            wanted = ' or '.join(_wanted(choice, name) for choice in _choices(annotation))
            raise ValueError(f'{name}={_short(value)} must be {wanted}') from None
        if isinstance(fit, tuple) and len(fit) != 2 and PAIRS.fullmatch(name) and _takes_images(owner):
            raise ValueError(f'{name}={_short(value)} must be one number, or two for height and width')
        if fit is not value:
            object.__setattr__(owner, name, fit)


@cache
def _annotations(owner: type) -> dict[str, Any]:
    """Of what is given to the constructor, but for the dtypes and linen's own."""
    hints = typing.get_type_hints(owner)
    others = {'parent', 'name', 'dtype', 'param_dtype'}
    return {field.name: hints[field.name] for field in fields(owner) if field.init and field.name not in others}


def _takes_images(owner: Any) -> bool:
    """Whether a patch of it has height and width; a model of any number of axes says how many by `ndim`."""
    return not hasattr(owner, 'ndim') and (hasattr(owner, 'image_size') or hasattr(owner, 'img_size'))


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
        fits = not NETWORKS.fullmatch(name) or value is None or callable(value) or hasattr(value, 'apply')
    elif kind is Callable or getattr(kind, '_is_protocol', False):
        fits = callable(value)
    elif kind is dict:
        fits = isinstance(value, Mapping)
    else:
        fits = isinstance(value, (bool, np.bool_) if kind is bool else kind)
    if not fits:
        raise Unfit
    return frozen(value)


def _fit_number(kind: type, name: str, value: Any) -> Any:
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
        # JAX takes no integer of more than 32 bits, and no float holds one of more than 1024
        number = value if not abs(value) >= 2**31 else float(value) if abs(value) < 10**300 else math.inf
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
    return tuple(_fit(inner[0], name, item) for item in values) if inner else frozen(values)


def frozen(value: Any) -> Any:
    """Lists and dicts, also inside of each other, as tuples and frozen dicts, which hash and compare by value."""
    if isinstance(value, Mapping):
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def _wanted(annotation: Any, name: str) -> str:
    kind, inner = _kind(annotation), typing.get_args(annotation)
    if kind is int:
        return f'an integer{_range(INTEGERS, name)}'
    if kind is float:
        return f'a number{_range(NUMBERS, name)}'
    if kind in (Sequence, tuple):
        one = ' or '.join(_wanted(choice, name) for choice in _choices(inner[0]))
        length = '' if kind is Sequence or inner[-1] is Ellipsis else f' of {len(inner)}'
        return f'a sequence{length}, each {one}'
    if kind is Callable or getattr(kind, '_is_protocol', False):
        return 'a function or a constructor'
    names = {bool: 'True or False', str: 'a string', type(None): 'None', Mapping: 'a dict', dict: 'a dict'}
    return names.get(kind, 'a network' if kind is Any else f'a {kind.__module__}.{kind.__name__}')


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**24:
        return f'{"-" if value < 0 else ""}10**{int(math.log10(abs(value)))} or more'
    text = reprlib.repr(value) if isinstance(value, str | list | tuple | Mapping) else repr(value)
    return text if len(text) < 80 else f'{text[:76].partition(chr(10))[0]}...'
