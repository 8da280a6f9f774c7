"""Hyper-Connections, arXiv:2409.19606; upstream module `simple_vit_with_hyper_connections`."""

import torch
from torch import Tensor, nn

from vit_torch_ref.models import simple_vit, simple_vit_with_register_tokens


class HyperConnection(nn.Module):
    def __init__(self, dim, streams, layer):
        super().__init__()
        self.norm = nn.LayerNorm(dim, bias=False)
        own = nn.functional.one_hot(torch.tensor([layer % streams]), streams).T.float()
        self.static_alpha = nn.Parameter(torch.cat([own, torch.eye(streams)], dim=1))
        self.static_beta = nn.Parameter(torch.ones(streams))
        self.dynamic_alpha_fn = nn.Parameter(torch.zeros(dim, streams + 1))
        self.dynamic_beta_fn = nn.Parameter(torch.zeros(dim))
        self.dynamic_alpha_scale = nn.Parameter(torch.tensor(0.01))
        self.dynamic_beta_scale = nn.Parameter(torch.tensor(0.01))

    def forward(self, streams: Tensor, branch: nn.Module) -> Tensor:
        normed = self.norm(streams)
        alpha = self.static_alpha + self.dynamic_alpha_scale * torch.tanh(normed @ self.dynamic_alpha_fn)
        beta = self.static_beta + self.dynamic_beta_scale * torch.tanh(normed @ self.dynamic_beta_fn)
        mixed = alpha.mT @ streams
        return mixed[..., 1:, :] + beta.unsqueeze(-1) * branch(mixed[..., 0, :]).unsqueeze(-2)


class Transformer(nn.Module):
    def __init__(self, depth, dim, heads, dim_head, mlp_dim, streams):
        super().__init__()
        self.streams = streams
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    HyperConnection(dim, streams, layer),
                    simple_vit.Attention(dim, heads, dim_head),
                    HyperConnection(dim, streams, layer),
                    simple_vit.FeedForward(dim, mlp_dim),
                ]
            )
            for layer in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([x] * self.streams, dim=2)
        for around_attention, attention, around_feedforward, feedforward in self.layers:
            x = around_feedforward(around_attention(x, attention), feedforward)
        return self.norm(x.sum(dim=2))


class SimpleViT(simple_vit_with_register_tokens.SimpleViT):
    def __init__(self, *, num_residual_streams, dim, depth, heads, dim_head=64, mlp_dim, **kwargs):
        super().__init__(dim=dim, depth=0, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, **kwargs)
        self.transformer = Transformer(depth, dim, heads, dim_head, mlp_dim, num_residual_streams)
