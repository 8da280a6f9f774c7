"""JetViT, arXiv:2605.26636; upstream module `jet_vit`."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d

from vit_torch_ref.blocks import Attention, FeedForward, pair, patch_embedding


class DynamicConv(nn.Module):
    """`[b c h w] -> [b c h w]`."""

    def __init__(self, channels):
        super().__init__()
        squeezed = channels // 4
        self.mlp = nn.Sequential(nn.Linear(channels, squeezed), nn.SiLU(), nn.Linear(squeezed, 9 * channels))

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.mlp(x.mean(dim=(2, 3))).unflatten(1, (-1, 1, 3, 3))
        images = zip(x, kernels, strict=True)
        return torch.stack([conv2d(image, kernel, padding=1, groups=len(image)) for image, kernel in images])


class LinearAttention(nn.Module):
    def __init__(self, dim, rows, heads, dim_head, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.rows = heads, rows
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.dynamic_conv = DynamicConv(inner)
        bare = heads == 1 and dim_head == dim
        self.to_out = nn.Identity() if bare else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        weights = q.relu() @ k.relu().mT
        x = weights @ v / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        convolved = self.dynamic_conv(rearrange(v, 'b e (h w) k -> b (e k) h w', h=self.rows))
        convolved = rearrange(convolved, 'b c h w -> b (h w) c')
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)') + convolved)


class WindowAttention(nn.Module):
    def __init__(self, dim, grid, size, dim_head, dropout):
        super().__init__()
        self.grid, self.size, self.scale = grid, size, dim_head**-0.5
        # upstream: the number of heads follows from dim and dim_head
        self.heads = dim // dim_head
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.rel_pos_bias = nn.Embedding((2 * size - 1) ** 2, self.heads)
        project = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Sequential(project, nn.Dropout(dropout))
        y, x = torch.cartesian_prod(torch.arange(size), torch.arange(size)).unbind(dim=1)
        down, right = (t[:, None] - t[None] + size - 1 for t in (y, x))
        self.places = down * (2 * size - 1) + right

    def forward(self, x: Tensor) -> Tensor:
        axes = dict(zip('hw', (length // self.size for length in self.grid), strict=True), p=self.size, q=self.size)
        x = rearrange(self.norm(x), 'b (h p w q) d -> (b h w) (p q) d', **axes)
        q, k, v = rearrange(self.to_qkv(x), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        bias = rearrange(self.rel_pos_bias(self.places), 'n m e -> e n m')
        weights = self.dropout((q @ k.mT * self.scale + bias).softmax(dim=-1))
        x = self.to_out(rearrange(weights @ v, 'b e n k -> b n (e k)'))
        return rearrange(x, '(b h w) (p q) d -> b (h p w q) d', **axes)


class Choice(nn.Module):
    def __init__(self, kinds, options):
        super().__init__()
        self.options, self.names = nn.ModuleDict(kinds), options

    def forward(self, x: Tensor, index: int) -> Tensor:
        return self.options[self.names if isinstance(self.names, str) else self.names[index]](x)


class Transformer(nn.Module):
    def __init__(self, dim, options, grid, window_size, heads, dim_head, mlp_dim, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList()
        for names in options:
            kinds = dict(
                WA=WindowAttention(dim, grid, window_size, dim_head, dropout),
                LA=LinearAttention(dim, grid[0], heads, dim_head, dropout),
                FA=Attention(dim, heads, dim_head, dropout),
            )
            self.layers.append(nn.ModuleList([Choice(kinds, names), FeedForward(dim, mlp_dim, dropout)]))

    def forward(self, x: Tensor, choices) -> Tensor:
        for (attention, feedforward), choice in zip(self.layers, choices, strict=True):
            x = x + attention(x, int(choice))
            x = x + feedforward(x)
        return self.norm(x)


class JetViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        attn_layers=None,
        window_size=7,
        image_size,
        patch_size,
        channels=3,
        num_classes,
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        grid = h // p, w // q
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        self.pos_embedding = nn.Parameter(torch.randn(grid[0] * grid[1], dim))
        self.dropout = nn.Dropout(emb_dropout)
        options = ['FA'] * depth if attn_layers is None else attn_layers
        self.transformer = Transformer(dim, options, grid, window_size, heads, dim_head, mlp_dim, dropout)
        self.mlp_head = nn.Linear(dim, num_classes) if num_classes else None

    def forward(self, images: Tensor, attention_choices=None) -> Tensor:
        # upstream: chooses at random in each call
        choices = [0] * len(self.transformer.layers) if attention_choices is None else attention_choices
        x = self.transformer(self.dropout(self.to_patch_embedding(images) + self.pos_embedding), choices)
        return x if self.mlp_head is None else self.mlp_head(x.mean(dim=1))
