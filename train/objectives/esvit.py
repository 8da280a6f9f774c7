"""EsViT (arXiv:2106.09785): self-distillation of views and of the places of their feature maps."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from flax import linen as nn

from train.objectives.objective import Scaled
from train.objectives.selfdistilled import SelfDistilled
from vit_flax.objectives.es_vit import EsViTTrainer
from vit_flax.objectives.views import dino_augment


@dataclass(frozen=True)
class EsVit(SelfDistilled):
    """The same for networks that end in a feature map, whose places are compared too."""

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        colours = {
            'augment_fn': partial(dino_augment, blurred=1.0),
            'augment_fn2': partial(dino_augment, blurred=0.1, solarised=0.2),
            'local_augment_fn': partial(dino_augment, blurred=0.5),
        }
        return EsViTTrainer.paper(model, 1, **colours, **self.settings(model))
