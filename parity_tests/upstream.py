"""The pinned vit-pytorch, one module at a time."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from functools import cache
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from vit_torch_ref.models.vaat import Spectrogram

VERSION = '1.26.11'


@cache
def _package() -> ModuleType:
    """vit_pytorch without its own start, which would load every model and torchvision; as it is, if a test of
    something else has loaded it."""
    # some modules import image augmentations at their head, `wwt` because it takes its loss from such a module
    stand_in, augmentations = ModuleType('torchvision'), ModuleType('torchvision.transforms')
    # whichever is asked for does nothing: a case gives the views
    nothing = mock.MagicMock(side_effect=lambda *args, **kwargs: torch.nn.Identity())
    vars(augmentations)['__getattr__'] = lambda name: nothing
    vars(stand_in)['transforms'] = augmentations
    sys.modules.setdefault('torchvision', stand_in)
    # `vaat` needs torchaudio, whose releases do not load beside a torch without CUDA
    audio, transforms = ModuleType('torchaudio'), ModuleType('torchaudio.transforms')
    vars(transforms)['Spectrogram'] = Spectrogram
    sys.modules.setdefault('torchaudio', audio)
    sys.modules.setdefault('torchaudio.transforms', transforms)
    if 'vit_pytorch' not in sys.modules:
        package = ModuleType('vit_pytorch')
        package.__path__ = list(importlib.util.find_spec('vit_pytorch').submodule_search_locations)
        sys.modules['vit_pytorch'] = package
    return sys.modules['vit_pytorch']


def upstream_module(stem: str) -> ModuleType:
    """`vit_pytorch.<stem>`; for the models that it has none of, what builds timm's."""
    _package()
    name = f'vit_pytorch.{stem}'
    return importlib.import_module(name if importlib.util.find_spec(name) else 'parity_tests.timm_side')


def upstream_stems() -> set[str]:
    """Names of all of upstream's modules."""
    return {info.name for info in pkgutil.iter_modules(_package().__path__)}


def tables_in_float64(module: ModuleType, call: Any) -> dict[str, Any]:
    """An `upstream_patch`: upstream's position table with its sines taken in float64, as the reference takes them."""
    name = next(name for name in vars(module) if name.startswith('posemb_sincos_'))
    original = getattr(module, name)
    dtype = {'dtype': torch.float64} if 'h' in inspect.signature(original).parameters else {}

    def table(*args: Any, **kwargs: Any) -> torch.Tensor:
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return original(*args, **kwargs, **dtype)
        finally:
            torch.set_default_dtype(default)

    return {name: table}


def dense_attention(module: ModuleType, call: Any) -> dict[str, Any]:
    """An `upstream_patch`: masks as arrays, since upstream's flex attention has no backward pass on a CPU."""
    masking = upstream_module('vit_nd_masking')

    def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        with mock.patch.object(masking, 'flex_attention_supported', return_value=False):
            return masking.nd_attention(*args, **kwargs)

    return {'nd_attention': attention, 'create_nd_block_mask': lambda *args, **kwargs: None}


class TorchWith:
    """`torch` with some of its functions replaced: an `upstream_patch` is `{'torch': TorchWith(rand=...)}`."""

    def __init__(self, **instead: Any):
        self.instead = instead

    def __getattr__(self, name: str) -> Any:
        return self.instead[name] if name in self.instead else getattr(torch, name)


def ranks(order: torch.Tensor) -> torch.Tensor:
    """Numbers in [0, 1) that sort to this order, `[b n]`: what upstream's `torch.rand` must have drawn."""
    return order.argsort(dim=-1) / order.shape[-1]
