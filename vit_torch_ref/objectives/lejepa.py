"""LeJEPA, arXiv:2511.08544; upstream module `lejepa`.

Views and the directions of SIGReg are arguments; `predict_mean` is the paper's, not upstream's.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from vit_torch_ref.objectives.dino import ProjectedNet, move, shape_of


def sigreg_loss(x: Tensor, projections: Tensor, domain=(-5, 5), num_knots=17) -> Tensor:
    knots = torch.linspace(*domain, num_knots, dtype=x.dtype)
    normal = torch.exp(-(knots**2) / 2)
    along = (x @ normalize(projections, dim=-1, eps=1e-6).mT).flatten(0, -2)
    found = torch.exp(1j * along[..., None] * knots).mean(dim=0)
    return torch.trapezoid((found - normal).abs() ** 2 * normal, knots, dim=-1).mean()


class LeJEPA(nn.Module):
    def __init__(
        self,
        net,
        image_size,
        hidden_layer=-2,
        projection_hidden_size=256,
        num_classes_K=65336,
        projection_layers=4,
        use_ema=None,
        moving_average_decay=None,
        use_sigreg=None,
        target_loss_weight=1.0,
        sigreg_loss_weight=1.0,
        sigreg_loss_kwargs=None,
        predict_mean=False,
        average_places=False,
    ):
        super().__init__()
        if use_ema is None:
            use_ema = not use_sigreg if use_sigreg is not None else moving_average_decay is not None
        self.use_sigreg = (not use_ema if use_sigreg is None else use_sigreg) and sigreg_loss_weight > 0
        self.net, self.decay = net, 0.99 if moving_average_decay is None else moving_average_decay
        self.weights, self.predict_mean = (target_loss_weight, sigreg_loss_weight), predict_mean
        self.settings = {k: v for k, v in (sigreg_loss_kwargs or {}).items() if k != 'num_slices'}
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        shape = shape_of(net, hidden_layer, size, 3)
        sizes = num_classes_K, projection_layers, projection_hidden_size
        self.encoder = ProjectedNet(net, hidden_layer, shape, *sizes, average_places=average_places)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False) if use_ema else None

    def forward(self, large: Tensor, small: Tensor, projections: Tensor | None = None) -> Tensor:
        local = self.encoder(small.flatten(0, 1)).unflatten(0, small.shape[:2])
        with torch.set_grad_enabled(self.predict_mean):
            seen = (self.target_encoder or self.encoder)(large.flatten(0, 1)).unflatten(0, large.shape[:2])
        if self.predict_mean:
            views = torch.cat([seen, local])
            loss = ((views - seen.mean(dim=0)) ** 2).mean()
            apart = [sigreg_loss(view, projections, **self.settings) for view in views]
            return loss * self.weights[0] + torch.stack(apart).mean() * views.shape[1] * self.weights[1]
        loss = (mse_loss(local[0], seen[1]) + mse_loss(local[1], seen[0])) * self.weights[0]
        if not self.use_sigreg:
            return loss
        return loss + sigreg_loss(local, projections, **self.settings) * self.weights[1]

    def update_moving_average(self) -> None:
        if self.target_encoder is not None:
            move(self.target_encoder, self.encoder, self.decay)
