"""CrossFormer: Cross-scale Attention, arXiv:2108.00154; upstream module `crossformer`."""

import torch
from einops import rearrange
from einops.layers.torch import Reduce
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer
from vit_torch_ref.models.cvt import LayerNorm

SIDES = {False: 'b d (h p) (w q)', True: 'b d (p h) (q w)'}


class CrossScaleEmbedding(nn.Module):
    def __init__(self, before, after, kernels, stride):
        super().__init__()
        widths = [after >> i for i in range(1, len(kernels))]
        widths.append(after - sum(widths))
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, kernel, padding=(kernel - stride) // 2, stride=stride)
            for width, kernel in zip(widths, sorted(kernels), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(x) for conv in self.convs], dim=1)


def bias_network(hidden):
    layers, before = [], 2
    for _ in range(3):
        layers += [nn.Linear(before, hidden), nn.LayerNorm(hidden), nn.ReLU()]
        before = hidden
    return nn.Sequential(*layers, nn.Linear(hidden, 1))


def feed_forward(dim, dropout):
    expand, contract = nn.Conv2d(dim, 4 * dim, 1), nn.Conv2d(4 * dim, dim, 1)
    return nn.Sequential(LayerNorm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract)


class Attention(nn.Module):
    def __init__(self, dim, window, far, dropout, paper_bias_index, dim_head=32):
        super().__init__()
        self.heads, self.scale, self.window, self.pattern = dim // dim_head, dim_head**-0.5, window, SIDES[far]
        inner = self.heads * dim_head
        self.to_qkv, self.to_out = nn.Conv2d(dim, 3 * inner, 1, bias=False), nn.Conv2d(inner, dim, 1)
        self.norm, self.dropout = LayerNorm(dim), nn.Dropout(dropout)
        self.dpb = bias_network(dim // 4)
        self.ways = torch.cartesian_prod(*[torch.arange(-window, window + 1)] * 2)
        places = torch.cartesian_prod(*[torch.arange(window)] * 2)
        down, right = (places[:, None] - places[None]).unbind(dim=-1)
        # as upstream, see vit_flax: the table is read with two columns too few
        edge = 0 if paper_bias_index else 1
        index = (down + window - edge) * (2 * window + 1 - 2 * edge) + right + window - edge
        self.register_buffer('rel_pos_indices', index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        p = self.window
        h, w = (side // p for side in x.shape[2:])
        qkv = self.to_qkv(self.norm(x)).unflatten(1, (3, self.heads, -1))
        pattern = self.pattern.replace('b d', 'b qkv e k')
        q, k, v = rearrange(qkv, f'{pattern} -> qkv (b h w) e (p q) k', p=p, q=p)
        bias = self.dpb(self.ways.to(x))[self.rel_pos_indices, 0]
        x = self.dropout((q @ k.mT * self.scale + bias).softmax(dim=-1)) @ v
        pattern = self.pattern.replace('b d', 'b (e k)')
        return self.to_out(rearrange(x, f'(b h w) e (p q) k -> {pattern}', h=h, w=w, p=p))


class CrossFormer(nn.Module):
    def __init__(
        self,
        *,
        num_classes=1000,
        channels=3,
        dim=(64, 128, 256, 512),
        depth=(2, 2, 8, 2),
        local_window_size=7,
        global_window_size=(8, 4, 2, 1),
        cross_embed_strides=(4, 2, 2, 2),
        cross_embed_kernel_sizes=((4, 8, 16, 32), (2, 4), (2, 4), (2, 4)),
        ff_dropout=0.0,
        attn_dropout=0.0,
        paper_bias_index=False,
    ):
        super().__init__()
        before = channels
        self.layers = nn.ModuleList()
        for stage in range(4):

            def own(value, stage=stage):
                return value[stage] if isinstance(value, tuple) else value

            width, near, far = own(dim), own(local_window_size), own(global_window_size)

            def attention(size, far, width=width):
                return lambda: Attention(width, size, far, attn_dropout, paper_bias_index)

            def feedforward(width=width):
                return feed_forward(width, ff_dropout)

            branches = attention(near, False), feedforward, attention(far, True), feedforward
            kernels, stride = cross_embed_kernel_sizes[stage], own(cross_embed_strides)
            embedding = CrossScaleEmbedding(before, width, kernels, stride)
            self.layers.append(nn.Sequential(embedding, Transformer(own(depth), *branches)))
            before = width
        self.to_logits = nn.Sequential(Reduce('b c h w -> b c', 'mean'), nn.Linear(before, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.layers:
            x = stage(x)
        return self.to_logits(x)
