"""timm's networks, built from our arguments."""

from collections.abc import Callable
from functools import cache, partial, wraps
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from parity_tests.foreign import imported

VERSION = '1.0.31'


class Doubles(TorchFunctionMode):
    """Where timm asks for float32, as for the angles of rotary positions, it gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = torch.Tensor.double if func is torch.Tensor.float else func
        args, kwargs = tree_map(lambda x: torch.float64 if x is torch.float32 else x, (args, kwargs or {}))
        return func(*args, **kwargs)


def in_doubles(build: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """A constructor whose module is made and called with `Doubles`."""

    @wraps(build)
    def make(**kwargs: Any) -> torch.nn.Module:
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with Doubles():
                model = build(**kwargs)
        finally:
            torch.set_default_dtype(default)
        forward = model.forward

        @wraps(forward)
        def call(*args: Any, **options: Any) -> Any:
            with Doubles():
                return forward(*args, **options)

        model.forward = call
        return model

    return make


@cache
def timm() -> ModuleType:
    """The package."""
    imported('timm.models')
    return imported('timm')


def normed(norm: str, norm_eps: float) -> Callable[..., torch.nn.Module]:
    """timm's constructor of a norm."""
    return partial({'layer': timm().layers.LayerNorm, 'rms': timm().layers.RmsNorm}[norm], eps=norm_eps)


def VisionTransformer(
    *,
    act: str = 'gelu',
    norm: str = 'layer',
    norm_eps: float = 1e-6,
    mlp: str = 'mlp',
    embed_norm: bool = False,
    distilled: bool = False,
    representation_size: int | None = None,
    qk_scale: float | None = None,
    **kwargs: Any,
) -> torch.nn.Module:
    """timm's class from the arguments of ours; of a number of classes, none where it has no such argument."""
    if representation_size is not None or qk_scale is not None:
        raise TypeError('timm has dropped representation_size and qk_scale')
    models, layers = timm().models, timm().layers
    build = models.deit.VisionTransformerDistilled if distilled else models.vision_transformer.VisionTransformer
    model = build(
        norm_layer=normed(norm, norm_eps),
        embed_norm_layer=normed(norm, norm_eps) if embed_norm else None,
        act_layer={'gelu': torch.nn.GELU, 'silu': torch.nn.SiLU}.get(act, act),
        mlp_layer={
            'mlp': layers.Mlp,
            'glu': layers.GluMlp,
            'swiglu_packed': partial(layers.GluMlp, gate_last=False),
            'swiglu': layers.SwiGLU,
        }[mlp],
        **kwargs,
    )
    if distilled:
        model.set_distilled_training()
    return model


def HybridVisionTransformer(
    *,
    patch_size: Any = 1,
    in_chans: int = 3,
    layers: Any = (3, 4, 9),
    widths: Any = (256, 512, 1024, 2048),
    stem_chs: int = 64,
    num_groups: int = 32,
    **kwargs: Any,
) -> torch.nn.Module:
    """timm's class around a backbone as its names have it."""
    models, layer = timm().models, timm().layers
    parts = dict(
        stem_type='same',
        preact=False,
        conv_layer=partial(layer.StdConv2dSame, eps=1e-8),
        norm_layer=partial(layer.GroupNormAct, num_groups=num_groups),
    )
    backbone = (
        models.resnetv2.ResNetV2(
            layers, widths, num_classes=0, global_pool='', in_chans=in_chans, stem_chs=stem_chs, **parts
        )
        if layers
        else models.resnetv2.create_resnetv2_stem(in_chans, stem_chs, **parts)
    )
    embed = partial(layer.HybridEmbed, backbone=backbone)
    return VisionTransformer(embed_layer=embed, patch_size=patch_size, in_chans=in_chans, **kwargs)


def PoolingVisionTransformer(*, distilled: bool = False, **kwargs: Any) -> torch.nn.Module:
    model = timm().models.pit.PoolingVisionTransformer(distilled=distilled, **kwargs)
    if distilled:
        model.set_distilled_training()
    return model


def Levit(*, distilled: bool = False, **kwargs: Any) -> torch.nn.Module:
    models = timm().models.levit
    model = (models.LevitDistilled if distilled else models.Levit)(**kwargs)
    if distilled:
        model.set_distilled_training()
    return model


def Cait(*, norm_eps: float = 1e-6, **kwargs: Any) -> torch.nn.Module:
    return timm().models.cait.Cait(norm_layer=normed('layer', norm_eps), **kwargs)


@in_doubles
def Xcit(*, norm_eps: float = 1e-6, **kwargs: Any) -> torch.nn.Module:
    return timm().models.xcit.Xcit(norm_layer=normed('layer', norm_eps), **kwargs)


@in_doubles
def Eva(*, norm: str = 'layer', norm_eps: float = 1e-6, **kwargs: Any) -> torch.nn.Module:
    return timm().models.eva.Eva(norm_layer=normed(norm, norm_eps), **kwargs)


def Beit(*, norm: str = 'layer', norm_eps: float = 1e-6, **kwargs: Any) -> torch.nn.Module:
    return timm().models.beit.Beit(norm_layer=normed(norm, norm_eps), **kwargs)


@in_doubles
def Qwen3VitClassifier(*, act: str = 'gelu_tanh', **kwargs: Any) -> torch.nn.Module:
    return timm().models.qwen3_vit.Qwen3VitClassifier(act_layer=timm().layers.get_act_layer(act), **kwargs)


@in_doubles
def Qwen3VitEncoder(*, act: str = 'gelu_tanh', **kwargs: Any) -> torch.nn.Module:
    return timm().models.qwen3_vit.Qwen3VitEncoder(act_layer=timm().layers.get_act_layer(act), **kwargs)
