"""Post-LayerNorm Is Back, arXiv:2601.19895; upstream module `vit_with_keel_post_ln`."""

from torch import Tensor, nn

from vit_torch_ref import blocks
from vit_torch_ref.models import vit


def unbiased_norm(dim) -> nn.LayerNorm:
    return nn.LayerNorm(dim, bias=False)


class KeelTransformer(nn.Module):
    def __init__(self, dim, depth, heads, dim_head, mlp_dim, dropout, scale):
        super().__init__()
        self.scale = scale
        self.layers = nn.ModuleList()
        for _ in range(depth):
            attention = blocks.Attention(dim, heads, dim_head, dropout)
            attention.norm = unbiased_norm(dim)
            feedforward = blocks.FeedForward(dim, mlp_dim, dropout)
            feedforward.net[0] = unbiased_norm(dim)
            self.layers += [attention, feedforward]
        self.post_norms = nn.ModuleList(unbiased_norm(dim) for _ in self.layers[1:])

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.layers
        x = x + first(x)
        for branch, norm in zip(others, self.post_norms, strict=True):
            x = norm(self.scale * x + branch(x))
        return x


class ViT(vit.ViT):
    def __init__(self, *, dim, depth, heads, dim_head=64, mlp_dim, dropout=0.0, keel_residual_scale=None, **kwargs):
        sizes = dict(dim=dim, depth=depth, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, dropout=dropout)
        super().__init__(**sizes, **kwargs)
        scale = 2 * depth if keel_residual_scale is None else keel_residual_scale
        self.transformer = KeelTransformer(**sizes, scale=scale)
