"""Normalized Transformer, arXiv:2410.01131; upstream module `normalized_vit`."""

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize, silu
from torch.nn.utils.parametrize import register_parametrization

from vit_torch_ref.blocks import pair, softmax_attention


class Unit(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        return normalize(weight, dim=self.axis)


class NormLinear(nn.Module):
    """Torch's weight `[out in]`, of length one along the given axis."""

    def __init__(self, width, features, axis=1):
        super().__init__()
        self.linear = nn.Linear(width, features, bias=False)
        register_parametrization(self.linear, 'weight', Unit(axis))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (NormLinear(dim, heads * dim_head) for _ in range(3))
        self.q_scale, self.k_scale = (nn.Parameter(torch.full((heads, 1, dim_head), dim_head**0.25)) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.to_out = NormLinear(heads * dim_head, dim, axis=0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (rearrange(to(x), 'b n (e k) -> b e n k', e=self.heads) for to in (self.to_q, self.to_k, self.to_v))
        q, k = normalize(q, dim=-1) * self.q_scale, normalize(k, dim=-1) * self.k_scale
        return self.to_out(rearrange(softmax_attention(q, k, v, 1.0, self.dropout), 'b e n k -> b n (e k)'))


class FeedForward(nn.Module):
    def __init__(self, dim, hidden_dim, dropout):
        super().__init__()
        inner = int(hidden_dim * 2 / 3)
        self.root = dim**0.5
        self.to_hidden, self.to_gate = NormLinear(dim, inner), NormLinear(dim, inner)
        self.hidden_scale, self.gate_scale = nn.Parameter(torch.ones(inner)), nn.Parameter(torch.ones(inner))
        self.dropout = nn.Dropout(dropout)
        self.to_out = NormLinear(inner, dim, axis=0)

    def forward(self, x: Tensor) -> Tensor:
        gates = silu(self.root * self.gate_scale * self.to_gate(x))
        return self.to_out(self.dropout(gates * self.hidden_scale * self.to_hidden(x)))


class nViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        residual_lerp_scale_init=None,
        image_size,
        patch_size,
        channels=3,
        num_classes,
        dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.root = dim**0.5
        rate = (1 / depth if residual_lerp_scale_init is None else residual_lerp_scale_init) / self.root
        self.to_patch_embedding = nn.Sequential(
            Rearrange('b c (h p) (w q) -> b (h w) (c p q)', p=p, q=q), NormLinear(channels * p * q, dim, axis=0)
        )
        self.abs_pos_emb = NormLinear(dim, (h // p) * (w // q))
        self.layers, self.residual_lerp_scales = nn.ModuleList(), nn.ParameterList()
        for _ in range(depth):
            branches = Attention(dim, heads, dim_head, dropout), FeedForward(dim, mlp_dim, dropout)
            self.layers.append(nn.ModuleList(branches))
            rates = (nn.Parameter(torch.full((dim,), rate)) for _ in branches)
            self.residual_lerp_scales.append(nn.ParameterList(rates))
        self.to_pred = NormLinear(dim, num_classes)
        self.logit_scale = nn.Parameter(torch.ones(num_classes))

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        x = normalize(x + self.abs_pos_emb.linear.weight[: x.shape[1]], dim=-1)
        for branches, rates in zip(self.layers, self.residual_lerp_scales, strict=True):
            for branch, rate in zip(branches, rates, strict=True):
                target = normalize(branch(x), dim=-1)
                x = normalize(x + self.root * rate * (target - x), dim=-1)
        return self.to_pred(x.mean(dim=1)) * self.logit_scale * self.root
