"""LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference, arXiv:2104.01136; upstream module `levit`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair


def of_stages(value, stages):
    values = value if isinstance(value, tuple) else (value,)
    return [values[min(stage, len(values) - 1)] for stage in range(stages)]


class FeedForward(nn.Module):
    def __init__(self, dim, mult, dropout=0.0):
        super().__init__()
        expand, contract = nn.Conv2d(dim, mult * dim, 1), nn.Conv2d(mult * dim, dim, 1)
        self.net = nn.Sequential(expand, nn.Hardswish(), nn.Dropout(dropout), contract, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Attention(nn.Module):
    def __init__(self, dim, dim_out, grid, heads, dim_key, dim_value, paper_bias, dropout=0.0, stride=1):
        super().__init__()
        self.heads, self.scale, self.paper_bias = heads, dim_key**-0.5, paper_bias

        def projection(width, step=1):
            return nn.Sequential(
                nn.Conv2d(dim, width * heads, 1, bias=False, stride=step), nn.BatchNorm2d(width * heads)
            )

        self.to_q, self.to_k, self.to_v = projection(dim_key, stride), projection(dim_key), projection(dim_value)
        self.dropout = nn.Dropout(dropout)
        norm = nn.BatchNorm2d(dim_out)
        nn.init.zeros_(norm.weight)
        self.to_out = nn.Sequential(nn.GELU(), nn.Conv2d(heads * dim_value, dim_out, 1), norm, nn.Dropout(dropout))

        rows, columns = grid
        self.pos_bias = nn.Embedding(rows * columns, heads)
        q = torch.cartesian_prod(torch.arange(0, rows, stride), torch.arange(0, columns, stride))
        k = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        apart = (q[:, None] - k[None]).abs()
        self.register_buffer('pos_indices', apart[..., 0] * columns + apart[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        q = self.to_q(x)
        rows = q.shape[2]
        q, k, v = (rearrange(t, 'b (e k) h w -> b e (h w) k', e=self.heads) for t in (q, self.to_k(x), self.to_v(x)))
        bias = rearrange(self.pos_bias(self.pos_indices), 'n m e -> e n m')
        scores = q @ k.mT * self.scale + (bias if self.paper_bias else bias / self.scale)
        x = self.dropout(scores.softmax(dim=-1)) @ v
        return self.to_out(rearrange(x, 'b e (h w) k -> b (e k) h w', h=rows))


class Transformer(nn.Module):
    def __init__(self, depth, attention, feedforward, residual=True):
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(nn.ModuleList([attention(), feedforward()]) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for attention, feedforward in self.layers:
            x = x + attention(x) if self.residual else attention(x)
            x = x + feedforward(x)
        return x


class LeViT(nn.Module):
    def __init__(
        self,
        *,
        image_size,
        dim,
        depth,
        heads,
        stages=3,
        mlp_mult,
        dim_value=64,
        dim_key=32,
        num_classes,
        num_distill_classes=None,
        dropout=0.0,
        channels=3,
        paper_bias=False,
    ):
        super().__init__()
        dims, depths, heads = (of_stages(value, stages) for value in (dim, depth, heads))
        widths = [channels, 32, 64, 128, dims[0]]
        self.conv_embedding = nn.Sequential(
            *(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, stride=2) for i in range(4))
        )
        grid = tuple(side // 16 for side in pair(image_size))
        layers = []
        for i in range(stages):
            head = dict(dim_key=dim_key, dim_value=dim_value, paper_bias=paper_bias)

            def attention(i=i, grid=grid, head=head):
                return Attention(dims[i], dims[i], grid, heads[i], dropout=dropout, **head)

            layers.append(Transformer(depths[i], attention, lambda i=i: FeedForward(dims[i], mlp_mult, dropout)))
            if i < stages - 1:

                def shrink(i=i, grid=grid, head=head):
                    return Attention(dims[i], dims[i + 1], grid, 2 * heads[i], stride=2, **head)

                # as upstream, see vit_flax: twice as wide, no dropout
                layers.append(Transformer(1, shrink, lambda i=i: FeedForward(dims[i + 1], 2), residual=False))
                grid = tuple((side + 1) // 2 for side in grid)
        self.backbone = nn.Sequential(*layers)
        self.mlp_head = nn.Linear(dims[-1], num_classes)
        self.distill_head = None if num_distill_classes is None else nn.Linear(dims[-1], num_distill_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.backbone(self.conv_embedding(images)).mean(dim=(2, 3))
        logits = self.mlp_head(x)
        return logits if self.distill_head is None else (logits, self.distill_head(x))
