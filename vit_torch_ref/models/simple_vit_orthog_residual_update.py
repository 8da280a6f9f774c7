"""Orthogonal residual updates, arXiv:2505.11881; upstream module `simple_vit_orthog_residual_update`."""

from torch import Tensor, nn

from vit_torch_ref.models import simple_vit


class OrthogonalResidualUpdate(nn.Module):
    def __init__(self, block, dim, learned=False, double_precision=True):
        super().__init__()
        self.block, self.double = block, double_precision
        if learned:
            self.to_modulation = nn.Linear(dim, 2)
        self.learned = learned

    def forward(self, x: Tensor) -> Tensor:
        update = self.block(x)
        exact, stream = (update.double(), x.double()) if self.double else (update, x)
        direction = stream / stream.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        parallel = (exact * direction).sum(dim=-1, keepdim=True) * direction
        parallel, orthogonal = parallel.to(x), (exact - parallel).to(x)
        if not self.learned:
            return x + orthogonal
        shares = self.to_modulation(update).sigmoid()
        return x + shares[..., :1] * parallel + shares[..., 1:] * orthogonal


class Transformer(nn.Module):
    def __init__(self, depth, dim, heads, dim_head, mlp_dim, settings):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                OrthogonalResidualUpdate(branch, dim, **settings)
                for branch in (simple_vit.Attention(dim, heads, dim_head), simple_vit.FeedForward(dim, mlp_dim))
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            for update in block:
                x = update(x)
        return self.norm(x)


class SimpleViT(simple_vit.SimpleViT):
    def __init__(self, *, orthog_residual_update_kwargs=None, dim, depth, heads, dim_head=64, mlp_dim, **kwargs):
        super().__init__(dim=dim, depth=0, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, **kwargs)
        settings = orthog_residual_update_kwargs or {}
        self.transformer = Transformer(depth, dim, heads, dim_head, mlp_dim, settings)
