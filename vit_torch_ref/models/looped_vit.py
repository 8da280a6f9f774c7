"""Looped Diffusion Transformer, arXiv:2609.40305; upstream module `looped_vit`."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vit_torch_ref.blocks import FeedForward, Transformer, softmax_attention


def weights_of_loops(loops, weighting) -> Tensor:
    if not isinstance(weighting, str):
        return torch.tensor(weighting, dtype=torch.float64)
    others = {
        'final': lambda loop: 0.0,
        'exponential': lambda loop: 0.5 ** (loops - 1 - loop),
        'final_mean': lambda loop: 1 / (loops - 1),
    }[weighting]
    return torch.tensor([*map(others, range(loops - 1)), 1.0], dtype=torch.float64)


def losses(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    each = [cross_entropy(of_loop, labels, reduction='none', label_smoothing=smoothing) for of_loop in logits]
    return torch.stack(each)


def deep_supervision_loss(logits: Tensor, labels: Tensor, weighting='final_mean', label_smoothing=0.0) -> Tensor:
    if logits.ndim == 2:
        return losses(logits[None], labels, label_smoothing).mean()
    weights = weights_of_loops(len(logits), weighting).to(logits)
    return weights @ losses(logits, labels, label_smoothing).mean(dim=1)


def adaptive_exit_targets(logits: Tensor, labels: Tensor, label_smoothing=0.0) -> Tensor:
    values = losses(logits.detach(), labels, label_smoothing)
    targets = []
    for now in range(len(values) - 1):
        steps = torch.arange(1, len(values) - now).to(values)
        targets.append(((values[now] - values[now + 1 :]) / steps[:, None]).amax(dim=0).clamp(min=0))
    return torch.stack(targets)


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.to_qkv, self.to_gate = nn.Linear(dim, 3 * inner, bias=False), nn.Linear(dim, heads, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim, bias=False), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = rearrange(self.to_qkv(x), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        gates = rearrange(self.to_gate(x).sigmoid(), 'b n e -> b e n 1')
        own = normalize(v, dim=-1)
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        x = gates * (x - torch.einsum('b e n k, b e n k -> b e n', x, own)[..., None] * own)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class ExitGate(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout, num_queries=4):
        super().__init__()
        inner = heads * dim_head
        self.scale = dim_head**-0.5
        self.queries = nn.Parameter(torch.randn(heads, num_queries, dim_head) * self.scale)
        self.norm_kv = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.to_kv, self.to_out = nn.Linear(dim, 2 * inner, bias=False), nn.Linear(inner, dim, bias=False)
        expand, contract = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, 1)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract)

    def forward(self, x: Tensor) -> Tensor:
        k, v = rearrange(self.to_kv(self.norm_kv(x)), 'b n (kv e k) -> kv b e n k', kv=2, e=len(self.queries))
        x = softmax_attention(self.queries.expand(len(x), -1, -1, -1), k, v, self.scale, self.dropout)
        x = self.to_out(rearrange(x, 'b e q k -> b q (e k)'))
        return self.mlp(x.mean(dim=1)).squeeze(-1)


class LoopedViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        pre_loop_depth=6,
        num_looped_blocks=5,
        post_loop_depth=6,
        loop_depth=4,
        heads=8,
        dim_head=64,
        mlp_dim=2048,
        adaptive_loop=False,
        exit_threshold=0.0,
        image_size=None,
        input_shape=None,
        ndim=2,
        patch_size=None,
        channels=3,
        num_classes,
        pool='cls',
        dropout=0.0,
        emb_dropout=0.0,
        deep_supervision_weighting='final_mean',
    ):
        super().__init__()
        shape = image_size if input_shape is None else input_shape
        shape = (shape,) * ndim if isinstance(shape, int) else tuple(shape)
        self.patch = (patch_size,) * len(shape) if isinstance(patch_size, int) else tuple(patch_size)
        self.loop_depth, self.exit_threshold, self.pool = loop_depth, exit_threshold, pool
        self.loop_weights = weights_of_loops(loop_depth, deep_supervision_weighting)
        width = channels * math.prod(self.patch)
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(width, dim), nn.LayerNorm(dim))
        patches = math.prod(length // size for length, size in zip(shape, self.patch, strict=True))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + patches, dim))
        self.dropout = nn.Dropout(emb_dropout)
        attention, feedforward = (heads, dim_head, dropout), (mlp_dim, dropout)
        self.pre_loop, self.looped, self.post_loop = (
            Transformer(depth, lambda: Attention(dim, *attention), lambda: FeedForward(dim, *feedforward))
            for depth in (pre_loop_depth, num_looped_blocks, post_loop_depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.mlp_head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        self.exit_gate = ExitGate(dim, *attention) if adaptive_loop else None

    def patches(self, x: Tensor) -> Tensor:
        """`[b c *grid] -> [b n (*patch c)]`, one axis of the grid after the other."""
        axes = len(self.patch)
        for axis, size in enumerate(self.patch):
            x = x.unflatten(2 + 2 * axis, (-1, size))
        places, insides = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        x = x.permute(0, *places, *insides, 1)
        return x.flatten(1 + axes).flatten(1, axes)

    def forward(
        self,
        x: Tensor,
        loop_depth=None,
        return_all_logits=False,
        return_exit_benefits=False,
        adaptive_exit=False,
        exit_threshold=None,
    ):
        loops = loop_depth or self.loop_depth
        threshold = self.exit_threshold if exit_threshold is None else exit_threshold
        x = self.to_patch_embedding(self.patches(x))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embedding
        x = self.pre_loop(self.dropout(x))
        logits, benefits = [], []
        for loop in range(1, loops + 1):
            x = self.looped(x)
            decoded = self.norm(self.post_loop(x))
            logits.append(self.mlp_head(decoded[:, 1:].mean(dim=1) if self.pool == 'mean' else decoded[:, 0]))
            if (adaptive_exit or return_exit_benefits) and loop < loops:
                benefits.append(self.exit_gate(decoded))
                if adaptive_exit and benefits[-1].max() <= threshold:
                    break
        result = torch.stack(logits) if return_all_logits else logits[-1]
        return (result, torch.stack(benefits)) if return_exit_benefits else result
