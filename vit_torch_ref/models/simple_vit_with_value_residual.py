"""Value Residual Learning, arXiv:2410.17897; upstream module `simple_vit_with_value_residual`."""

from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import feed_forward, softmax_attention
from vit_torch_ref.models import simple_vit


class Attention(simple_vit.Attention):
    def __init__(self, dim, heads, dim_head, mixes):
        super().__init__(dim, heads, dim_head)
        if mixes:
            self.to_residual_mix = nn.Sequential(nn.Linear(dim, heads), nn.Sigmoid())

    def forward(self, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.norm(x)
        q, k, v = rearrange(self.to_qkv(x), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        if first is not None:
            v = first + rearrange(self.to_residual_mix(x), 'b n e -> b e n 1') * (v - first)
        x = softmax_attention(q, k, v, self.scale)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)')), v


class Transformer(nn.Module):
    def __init__(self, depth, dim, heads, dim_head, mlp_dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head, mixes=i > 0), feed_forward(dim, mlp_dim)])
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        first = None
        for attention, feedforward in self.layers:
            update, values = attention(x, first)
            first = values if first is None else first
            x = x + update
            x = x + feedforward(x)
        return self.norm(x)


class SimpleViT(simple_vit.SimpleViT):
    def __init__(self, *, dim, depth, heads, dim_head=64, mlp_dim, **kwargs):
        super().__init__(dim=dim, depth=0, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, **kwargs)
        self.transformer = Transformer(depth, dim, heads, dim_head, mlp_dim)
