"""The declaration of a parity case.

House rule for sizes: height and width, dim, heads, depth, head width, hidden width and classes
pairwise different, batch 2; so small that a case takes a second. Then no swapped axis can hide.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from types import ModuleType
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from flax import linen as nn

from parity_tests import cases
from parity_tests.upstream import upstream_module
from vit_flax import registry


@dataclass(frozen=True)
class Input:
    """Shape of one input as the Flax model takes it.

    In PyTorch an axis `c` stands behind those of the batch and the views, `b` and `v`.
    """

    shape: tuple[int, ...]
    layout: str


def image(*shape: int) -> tuple[Input, ...]:
    """One batch of images `[b h w c]`."""
    return (Input(shape, 'b h w c'),)


def series(*shape: int) -> tuple[Input, ...]:
    """One batch of series `[b n c]`."""
    return (Input(shape, 'b n c'),)


def video(*shape: int) -> tuple[Input, ...]:
    """One batch of videos or volumes `[b t h w c]`."""
    return (Input(shape, 'b t h w c'),)


@dataclass(frozen=True)
class Submodule:
    """An argument that is itself a module: each side builds its own.

    Attributes:
      path: of the file, the same in `vit_flax` and `vit_torch_ref`: `models.vit`.
      name: of the class.
      kwargs: arguments of both constructors; may hold further submodules.
      upstream: module that has the class upstream, if it is not vit-pytorch's of this stem.
    """

    path: str
    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    upstream: str = ''


def build(module: ModuleType, name: str, kwargs: Mapping[str, Any], submodule: Callable[[Submodule], Any]) -> Any:
    """Calls a constructor, submodules among its arguments built first."""
    return getattr(module, name)(
        **jax.tree.map(lambda value: submodule(value) if isinstance(value, Submodule) else value, dict(kwargs))
    )


def build_flax(argument: Submodule, **precision: Any) -> nn.Module:
    """`precision`: dtypes, which a module does not hand to those it is given."""
    module = importlib.import_module(f'vit_flax.{argument.path}')
    return build(module, argument.name, {**argument.kwargs, **precision}, partial(build_flax, **precision))


def build_torch(argument: Submodule):
    module = importlib.import_module(f'vit_torch_ref.{argument.path}')
    return build(module, argument.name, argument.kwargs, build_torch)


def build_upstream(argument: Submodule):
    path = argument.upstream
    module = importlib.import_module(path) if path else upstream_module(argument.path.rpartition('.')[2])
    return build(module, argument.name, argument.kwargs, build_upstream)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration of one model, run by every test.

    Attributes:
      name: which branch it takes.
      kwargs: arguments of both constructors; a module among them is a `Submodule`.
      inputs: what both are called with.
      parameters: exact number of learned parameters.
      call: further arrays, or tuples of them, that both are called with: masks and draws.
      options: further arguments of both calls that are no arrays: `return_loss=True`.
      listed: what both are called with, where that is a list of the inputs: their numbers, or lists of them.
        Flax gets what the model's own `pack` makes of it, together with `call` and `options`.
      feature_maps: outputs of four axes and more are `[b *space c]` here and `[b c *space]` in torch.
      train: training mode; rates of dropout must be 0, draws are in `call`.
      unused: patterns of the Flax paths of all parameters that no gradient reaches, but for rounding errors.
      model: name of the class, if not the file's main one.
      tolerance: relative, in float64; a looser one than 1e-9 needs its `reason`.
      upstream_patch: for draws upstream makes itself: a function of its module and `call`, giving
        attributes to put in their place.
      upstream_tolerance: of the reference against upstream, likewise with a `upstream_reason`.
      upstream_fails: upstream's error in this case, when the reference goes further than upstream.
    """

    name: str
    kwargs: Mapping[str, Any]
    inputs: tuple[Input, ...]
    parameters: int
    call: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    listed: Any = None
    feature_maps: bool = True
    train: bool = False
    unused: tuple[str, ...] = ()
    model: str | None = None
    tolerance: float = 1e-9
    reason: str = ''
    upstream_patch: Any = None
    upstream_tolerance: float = 1e-9
    upstream_reason: str = ''
    upstream_fails: type[Exception] | None = None
    stem: str = ''

    folder: ClassVar[str] = 'models'

    def __post_init__(self) -> None:
        for bound, reason in ((self.tolerance, self.reason), (self.upstream_tolerance, self.upstream_reason)):
            if bound > 1e-9 and not reason:
                raise ValueError(f'case {self.name!r}: a tolerance of {bound} needs a reason')

    @property
    def id(self) -> str:
        return f'{self.stem}-{self.name}'

    @property
    def class_name(self) -> str:
        return self.model or registry.model_info(self.stem).build.__name__

    @property
    def whole(self) -> Submodule:
        """What is built on each side."""
        return Submodule(f'{self.folder}.{self.stem}', self.class_name, self.kwargs)

    def flax_model(self, **extra: Any) -> nn.Module:
        precision = {name: extra.pop(name) for name in ('dtype', 'param_dtype') if name in extra}
        return build_flax(replace(self.whole, kwargs={**self.kwargs, **extra}), **precision)

    def arguments(self, inputs: Sequence[Any]) -> list[Any]:
        """The inputs as they are called with."""
        return [*inputs] if self.listed is None else [jax.tree.map(lambda index: inputs[index], self.listed)]

    def torch_call(self) -> dict[str, Any]:
        """`call` and `options` for the reference."""
        as_tensors = jax.tree.map(lambda array: torch.from_numpy(np.asarray(array)), dict(self.call))
        return as_tensors | dict(self.options)

    def torch_model(self):
        return build_torch(self.whole)

    def upstream_model(self):
        return build_upstream(self.whole)


def paper_model(stem: str) -> Submodule:
    """The main class of a file at its paper's size; where that holds modules, the case file has it as `PAPER_SIZE`."""
    info = registry.model_info(stem)
    kwargs = getattr(case_file(stem), 'PAPER_SIZE', info.paper_size)
    return Submodule(f'models.{stem}', info.build.__name__, kwargs)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A mistake of the caller that must end in one clear ValueError.

    Attributes:
      says: a pattern of the message: the argument, its value, what would be right.
      kwargs: arguments of the constructor.
      inputs: what the model is called with.
      call: further arguments of the call.
      model: name of the class, if not the file's main one.
    """

    says: str
    kwargs: Mapping[str, Any]
    inputs: tuple[Input, ...]
    call: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    stem: str = ''
    folder: str = 'models'

    def flax_model(self) -> nn.Module:
        name = self.model or registry.model_info(self.stem).build.__name__
        return build_flax(Submodule(f'{self.folder}.{self.stem}', name, self.kwargs))


@cache
def all_refusals() -> tuple[Refused, ...]:
    """Every `REFUSED` of every file in `cases/`."""
    return tuple(replace(refused, stem=stem) for stem in stems() for refused in case_file(stem).REFUSED)


def stems() -> list[str]:
    return [info.name for info in pkgutil.iter_modules(cases.__path__)]


def case_file(stem: str) -> ModuleType:
    return importlib.import_module(f'{cases.__name__}.{stem}')


@cache
def all_cases() -> tuple[Case, ...]:
    """Every case of every file in `cases/`, each with its stem."""
    return tuple(replace(case, stem=stem) for stem in stems() for case in case_file(stem).CASES)


@cache
def batch_norm_cases() -> tuple[Case, ...]:
    """The first case in training mode of each model that keeps statistics."""
    with_statistics = {
        case.stem: case
        for case in reversed(all_cases())
        if case.train and any('running_var' in name for name in case.torch_model().state_dict())
    }
    return tuple(with_statistics.values())[::-1]


# One model of each kind of part: plain blocks; convolutions with statistics; windows; packed images; tokens that are
# left out; one block many times; time; Fourier transforms. And objectives: pixels; a teacher with centres; statistics
# of a batch.
REPRESENTATIVES = (
    'vit', 'cvt', 'max_vit', 'na_vit', 'ats_vit', 'looped_vit', 'vivit', 'simple_vit_with_fft', 'mae', 'dino', 'lejepa',
)  # fmt: skip


def others_exhaustive(cases: Iterable[Any]) -> list[ParameterSet]:
    """The cases, of which those of representative models and objectives always run."""
    marks = {True: (), False: (pytest.mark.exhaustive,)}
    return [pytest.param(case, marks=marks[case.stem in REPRESENTATIVES]) for case in cases]


@cache
def scannable_cases() -> tuple[Case, ...]:
    """A case of each model whose trunk can be scanned: in training mode, if it keeps statistics."""
    cases = {case.stem: case for case in (*first_cases(), *batch_norm_cases())}
    return tuple(case for case in cases.values() if case.flax_model().takes('scan'))


@cache
def first_cases() -> tuple[Case, ...]:
    """The first case of each file: the one for checks that every model needs once."""
    return tuple({case.stem: case for case in reversed(all_cases())}.values())[::-1]
