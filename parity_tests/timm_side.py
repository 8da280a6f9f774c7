"""timm's networks, built from our arguments."""

from functools import cache, partial
from types import ModuleType
from typing import Any

import torch

from parity_tests.foreign import imported

VERSION = '1.0.31'


@cache
def timm() -> ModuleType:
    """The package."""
    imported('timm.models')
    return imported('timm')


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
    normed = partial({'layer': layers.LayerNorm, 'rms': layers.RmsNorm}[norm], eps=norm_eps)
    build = models.deit.VisionTransformerDistilled if distilled else models.vision_transformer.VisionTransformer
    model = build(
        norm_layer=normed,
        embed_norm_layer=normed if embed_norm else None,
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
