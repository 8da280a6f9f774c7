"""LeVJEPA, arXiv:2608.27395; upstream module `levjepa`.

Views `[1 b c t h w]` and `[v b c t h w]`, kept patches and directions `[s k]` are arguments; `views_in_order` is the
paper's, not upstream's.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class StandardisedLinear(nn.Module):
    def __init__(self, width, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, dim=1, correction=0, keepdim=True)
        return linear(x, (self.weight - mean) / var.clamp(min=1e-4) ** 0.5, self.bias)


def sigreg_statistic(x: Tensor, projections: Tensor, knots: int) -> Tensor:
    """`[v n d]`."""
    places = torch.linspace(0, 3, knots, dtype=x.dtype)
    normal = torch.exp(places.square() / -2)
    found = torch.exp(1j * (x @ normalize(projections, dim=-1).mT)[..., None] * places).mean(dim=1)
    return 2 * x.shape[1] * torch.trapezoid((found - normal).abs() ** 2 * normal, places, dim=-1).mean()


class VideoPrediction(nn.Module):
    def __init__(
        self,
        encoder,
        num_classes_K=256,
        projection_hidden=256,
        drop_ratio=0.95,
        use_batch_norm=True,
        use_weight_standardization=False,
        invariance_loss_weight=1.0,
        sigreg_loss_weight=0.02,
        sigreg_loss_kwargs=None,
        views_in_order=False,
    ):
        super().__init__()
        self.encoder, self.in_order = encoder, views_in_order
        self.weights, self.knots = (
            (invariance_loss_weight, sigreg_loss_weight),
            (sigreg_loss_kwargs or {}).get('knots', 17),
        )
        first = StandardisedLinear if use_weight_standardization else nn.Linear
        norm = nn.BatchNorm1d if use_batch_norm else nn.RMSNorm
        width = encoder.dim
        self.projector = nn.Sequential(
            first(width, projection_hidden),
            norm(projection_hidden),
            nn.GELU(),
            nn.Linear(projection_hidden, num_classes_K),
        )

    def forward(
        self, large: Tensor, small: Tensor, projections: Tensor, kept_patches=None, return_loss_breakdown=False
    ):
        batch, views = large.shape[1], len(small) + 1
        every = torch.cat([large[0], small.transpose(0, 1).flatten(0, 1)])
        x = self.projector(self.encoder(every, kept_patches=kept_patches)[:, 0])
        if self.in_order:
            x = torch.cat([x[:batch, None], x[batch:].unflatten(0, (batch, views - 1))], dim=1)
        else:
            x = x.unflatten(0, (batch, views))
        apart = (x - x[:, :1]).square().mean() * self.weights[0]
        odd = sigreg_statistic(x.transpose(0, 1), projections, self.knots) * self.weights[1]
        return (apart + odd, (apart, odd)) if return_loss_breakdown else apart + odd


class LeVJEPA(VideoPrediction):
    def __init__(self, encoder, image_size, local_size=96, num_local_views=4, **others):
        super().__init__(encoder, **others)
