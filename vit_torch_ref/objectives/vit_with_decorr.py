"""Classification with the loss of arXiv:2510.14657; upstream has the model alone, module `vit_with_decorr`."""

from torch import Tensor, nn


class DecorrelatedClassification(nn.Module):
    def __init__(self, *, weight, encoder):
        super().__init__()
        self.encoder, self.weight = encoder, weight

    def forward(self, images: Tensor, labels: Tensor, **draws: Tensor) -> tuple[Tensor, Tensor]:
        logits, decorrelation = self.encoder(images, return_decorr_aux_loss=True, **draws)
        return nn.functional.cross_entropy(logits, labels) + self.weight * decorrelation, decorrelation
