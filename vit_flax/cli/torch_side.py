"""The PyTorch model of a comparison: its class, its weights, and what each of its modules took and gave."""

import importlib
import importlib.util
import inspect
import itertools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vit_flax.cli.errors import UserError, nearest
from vit_flax.weights.formats.pytorch import to_tensor


@dataclass(frozen=True)
class Call:
    """One call of a torch module.

    Attributes:
      name: of the module, as the torch model has it.
      inputs, outputs: the tensors among its arguments and results.
      start, end: when it was entered and left, counted over all modules.
      leaf: it has no submodules.
      text: what it prints as.
    """

    name: str
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    start: int
    end: int
    leaf: bool
    text: str


def torch_class(name: str | None, stem: str, class_name: str) -> Any:
    """`package.module:Class`, `file.py:Class`, or vit-pytorch's class of the same name.

    Raises:
      UserError: it cannot be imported.
    """
    if name is None:
        return _upstream_class(stem, class_name)
    module_name, colon, attribute = name.rpartition(':')
    if not colon or not attribute or not module_name:
        raise UserError(f'--torch-class {name!r} must be package.module:Class or file.py:Class')
    try:
        is_file = module_name.endswith('.py')
        # modules beside the file, or beside the user, however we were started
        folder = str(Path(module_name).parent.absolute()) if is_file else os.getcwd()
        sys.path.insert(0, folder)
        try:
            module = _module_of_file(Path(module_name)) if is_file else importlib.import_module(module_name)
        finally:
            sys.path.remove(folder)
    except Exception as error:  # whatever that module does when it is imported
        raise UserError(f'--torch-class: {module_name} cannot be imported: {_text(error)}') from error
    if not callable(getattr(module, attribute, None)):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(f'--torch-class: {module_name} has no class {attribute!r}: {nearest(attribute, classes)}')
    return getattr(module, attribute)


def build(make: Any, kwargs: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """The torch model in evaluation mode, and the names of Flax's arguments that it does not take.

    Args:
      make: the class.
      kwargs: of the Flax model; those that the class has not are left out.
      own: arguments for the torch class alone.

    Raises:
      UserError: the class refuses its arguments.
    """
    try:
        parameters = dict(inspect.signature(make).parameters)
    except (TypeError, ValueError):
        parameters = {}
    takes_all = not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in own:
        if not takes_all and key not in parameters:
            raise UserError(f'--torch-arg {key}: {make.__name__} has no argument {key!r}: {nearest(key, parameters)}')
    shared = {key: value for key, value in kwargs.items() if takes_all or key in parameters}
    try:
        model = make(**{**shared, **own})
    except Exception as error:  # the user's own class
        raise UserError(f'the torch class {make.__name__} does not take these arguments: {_text(error)}') from error
    if not hasattr(model, 'named_modules'):
        raise UserError(f'--torch-class: {make.__name__} makes a {type(model).__name__}, which is no torch.nn.Module')
    return model.eval(), [key for key in kwargs if key not in shared]


def load(model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Strict `load_state_dict`.

    Raises:
      UserError: names or shapes that do not fit, all of them.
    """
    try:
        model.load_state_dict({name: to_tensor(array) for name, array in arrays.items()})
    except (RuntimeError, TypeError) as error:
        raise UserError(f'the checkpoint does not fit the torch class: {error}') from error


def record(model: Any, images: np.ndarray) -> list[Call]:
    """Runs the model and writes down every call of every module, in the order in which they end.

    Raises:
      UserError: the model does not take these images.
    """
    import torch

    clock = itertools.count()
    entered: dict[str, list[int]] = {}
    calls: list[Call] = []

    def enter(name):
        def remember(module, args):
            entered.setdefault(name, []).append(next(clock))

        return remember

    def leave(name):
        def remember(module, args, kwargs, output):
            leaf = not any(True for _ in module.children())
            text = ' '.join(repr(module).split()) if leaf else type(module).__name__
            inputs = _arrays((args, kwargs))
            calls.append(Call(name, inputs, _arrays(output), entered[name].pop(), next(clock), leaf, text))

        return remember

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave(name), with_kwargs=True))
    try:
        with torch.no_grad():
            model(torch.from_numpy(images))
    except Exception as error:  # the user's own class
        raise UserError(f'the torch model does not run on images of shape {images.shape}: {_text(error)}') from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def parameter_owners(model: Any) -> set[str]:
    """Names of the modules that hold parameters of their own."""
    return {name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))}


def _arrays(values: Any) -> list[np.ndarray]:
    """The tensors in nested lists, tuples and dicts, copied: a later module may write into them."""
    if hasattr(values, 'detach'):
        return [values.detach().cpu().double().numpy().copy()] if not values.is_complex() else []
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [array for value in values for array in _arrays(value)]


def _upstream_class(stem: str, class_name: str) -> Any:
    spec = importlib.util.find_spec('vit_pytorch') if 'vit_pytorch' not in sys.modules else None
    if spec is not None:
        # the package alone: its own start loads every model, and torchvision
        package = ModuleType('vit_pytorch')
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules['vit_pytorch'] = package
    try:
        return getattr(importlib.import_module(f'vit_pytorch.{stem}'), class_name)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"vit-pytorch's {stem}.{class_name} cannot be imported ({_text(error)}): pip install vit-pytorch, "
            'or name your own class with --torch-class package.module:Class'
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f'there is no file {path}')
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _text(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
