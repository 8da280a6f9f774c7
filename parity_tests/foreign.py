"""Packages that import torchvision, without its operators: those on the index do not fit PyTorch's for CPUs."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

# What vit-pytorch's tests have stand-ins of.
REPLACED = 'torchvision', 'torchaudio'


@contextmanager
def torchvision_without_operators() -> Iterator[None]:
    """The package torchvision, importable. What stands in for it or torchaudio elsewhere is put back."""
    before = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition('.')[0] in REPLACED}
    sys.modules['torchvision._meta_registrations'] = ModuleType('torchvision._meta_registrations')
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition('.')[0] in REPLACED]:
            del sys.modules[name]
        sys.modules.update(before)


def imported(name: str) -> ModuleType:
    """A module that needs torchvision or is of it."""
    with torchvision_without_operators():
        return importlib.import_module(name)
