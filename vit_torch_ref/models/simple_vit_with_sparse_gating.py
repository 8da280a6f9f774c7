"""Sparse gating of attention; upstream module `simple_vit_with_sparse_gating`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.models import simple_vit, simple_vit_with_register_tokens


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dim_mask, registers):
        super().__init__()
        self.heads, self.registers = heads, registers
        self.widths = [heads * width for width in (dim_head, dim_head, dim_head, dim_mask, dim_mask)]
        self.norm = nn.LayerNorm(dim)
        self.to_qkv_and_mask = nn.Linear(dim, sum(self.widths), bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = self.to_qkv_and_mask(self.norm(x)).split(self.widths, dim=-1)
        q, k, v, gate_q, gate_k = (rearrange(part, 'b n (e k) -> b e n k', e=self.heads) for part in parts)
        gates = torch.sigmoid(gate_q @ gate_k[:, :, self.registers :].mT / gate_q.shape[-1] ** 0.5)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        free, gated = scores[..., : self.registers], scores[..., self.registers :]
        weights = torch.cat([free, gated + gates.clamp(min=1e-20).log()], dim=-1).softmax(dim=-1)
        return self.to_out(rearrange(weights @ v, 'b e n k -> b n (e k)')), gates


class Transformer(nn.Module):
    def __init__(self, depth, dim, heads, dim_head, mlp_dim, dim_mask, registers):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head, dim_mask, registers), simple_vit.FeedForward(dim, mlp_dim)])
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        averages = []
        for attention, feedforward in self.layers:
            update, gates = attention(x)
            averages.append(gates.mean(dim=(1, 2, 3)))
            x = x + update
            x = x + feedforward(x)
        return self.norm(x), torch.stack(averages).mean(dim=0)


class SimpleViTWithSparseGating(simple_vit_with_register_tokens.SimpleViT):
    def __init__(
        self, *, dim_mask=4, sparsity_loss_type='thresholded_l1', sparsity_threshold=0.05, num_register_tokens=4,
        dim, depth, heads, dim_head=64, mlp_dim, **kwargs,
    ):  # fmt: skip
        super().__init__(
            num_register_tokens=num_register_tokens, dim=dim, depth=0, heads=heads, dim_head=dim_head,
            mlp_dim=mlp_dim, **kwargs,
        )  # fmt: skip
        self.free = 0.0 if sparsity_loss_type == 'l1' else sparsity_threshold
        self.transformer = Transformer(depth, dim, heads, dim_head, mlp_dim, dim_mask, num_register_tokens)

    def forward(self, images: Tensor, return_loss: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        x = self.to_patch_embedding(images)
        x = x + self.positions.to(x)
        registers = self.register_tokens.expand(len(x), -1, -1)
        x, gates = self.transformer(torch.cat([registers, x], dim=1))
        logits = self.linear_head(x[:, registers.shape[1] :].mean(dim=1))
        return (logits, torch.relu(gates - self.free).mean()) if return_loss else logits
