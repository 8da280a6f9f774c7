"""DINO (arXiv:2104.14294): self-distillation without labels."""

from dataclasses import dataclass
from typing import Any

from flax import linen as nn

from train.objectives.objective import Scaled
from train.objectives.selfdistilled import SelfDistilled
from vit_flax.objectives.dino import Dino as Module


@dataclass(frozen=True)
class Dino(SelfDistilled):
    """A student tells from its views what its teacher, an average of its past, sees in the large ones."""

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        return Module.paper(model, 1, **self.settings(model))
