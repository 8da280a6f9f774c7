"""Classification after every loop, arXiv:2609.40305; upstream has model, loss and targets, module `looped_vit`."""

from torch import Tensor, nn

from vit_torch_ref.models.looped_vit import adaptive_exit_targets, deep_supervision_loss


class LoopedClassification(nn.Module):
    def __init__(self, *, encoder, weighting='final_mean', gate_weight=1.0, label_smoothing=0.0):
        super().__init__()
        self.encoder, self.weighting = encoder, weighting
        self.gate_weight, self.label_smoothing = gate_weight, label_smoothing

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        gated = self.encoder.exit_gate is not None
        logits = self.encoder(images, return_all_logits=True, return_exit_benefits=gated)
        if gated:
            logits, benefits = logits
        loss = deep_supervision_loss(logits, labels, self.weighting, self.label_smoothing)
        if not gated:
            return loss, loss.new_zeros(())
        of_gate = (benefits - adaptive_exit_targets(logits, labels, self.label_smoothing)).square().mean()
        return loss + self.gate_weight * of_gate, of_gate
