"""Tokens-to-Token ViT, arXiv:2101.11986; upstream module `t2t`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention, FeedForward, Transformer, pair


class SoftSplit(nn.Module):
    """`[b c H W] -> [b (c p q) h w]`."""

    def __init__(self, size, step):
        super().__init__()
        self.window = dict(kernel_size=size, stride=step, padding=step // 2)

    def grid(self, *sizes: int) -> tuple[int, ...]:
        size, step, padding = self.window.values()
        return tuple((length + 2 * padding - size) // step + 1 for length in sizes)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.grid(*x.shape[2:])
        return nn.functional.unfold(x, **self.window).unflatten(2, (rows, columns))


class OnGrid(Transformer):
    """A transformer on the cells of a grid, `[b d h w] -> [b d h w]`."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = super().forward(rearrange(x, 'b d h w -> b (h w) d'))
        return rearrange(tokens, 'b (h w) d -> b d h w', h=x.shape[2])


def trunk(kind, dim, depth, heads, dim_head, mlp_dim, dropout):
    attention, feedforward = (heads, dim_head, dropout), (mlp_dim, dropout)
    return kind(depth, lambda: Attention(dim, *attention), lambda: FeedForward(dim, *feedforward), dim=dim)


class T2TViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth=None,
        heads=None,
        dim_head=64,
        mlp_dim=None,
        transformer=None,
        t2t_layers=((7, 4), (3, 2), (3, 2)),
        image_size,
        channels=3,
        num_classes,
        pool='cls',
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        self.pool = pool
        width, grid, places = channels, pair(image_size), nn.Sequential()
        for index, (size, step) in enumerate(t2t_layers):
            width *= size**2
            split = SoftSplit(size, step)
            grid = split.grid(*grid)
            last = index == len(t2t_layers) - 1
            rework = nn.Flatten(2) if last else trunk(OnGrid, width, 1, 1, width, width, dropout)
            places.extend([nn.Identity(), split, nn.Identity(), rework])
        places.append(nn.Linear(width, dim))
        self.to_patch_embedding = places
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + grid[0] * grid[1], dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = transformer or trunk(Transformer, dim, depth, heads, dim_head, mlp_dim, dropout)
        self.mlp_head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        *splits, projection = self.to_patch_embedding
        patches = projection(nn.Sequential(*splits)(images).mT)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        x = self.transformer(self.dropout(x + self.pos_embedding[:, : x.shape[1]]))
        return self.mlp_head(x.mean(dim=1) if self.pool == 'mean' else x[:, 0])
