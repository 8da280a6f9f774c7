"""PiT: Rethinking Spatial Dimensions of Vision Transformers, arXiv:2103.16302; upstream module `pit`."""

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention, FeedForward, Transformer, pair


class Downsample(nn.Module):
    def __init__(self, dim):
        super().__init__()
        wide = 2 * dim
        self.net = nn.Sequential(nn.Conv2d(dim, wide, 3, stride=2, padding=1, groups=dim), nn.Conv2d(wide, wide, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Pool(nn.Module):
    def __init__(self, dim, rows):
        super().__init__()
        self.rows = rows
        self.downsample = Downsample(dim)
        self.cls_ff = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.downsample(rearrange(x[:, 1:], 'b (h w) d -> b d h w', h=self.rows))
        return torch.cat([self.cls_ff(x[:, :1]), rearrange(patches, 'b d h w -> b (h w) d')], dim=1)


class PiT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        image_size,
        patch_size,
        channels=3,
        num_classes,
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        patch = pair(patch_size)
        stride = tuple(size // 2 for size in patch)
        rows, columns = (
            (size - length) // step + 1 for size, length, step in zip(pair(image_size), patch, stride, strict=True)
        )
        self.to_patch_embedding = nn.Sequential(
            nn.Unfold(patch, stride=stride),
            Rearrange('b c n -> b n c'),
            nn.Linear(channels * patch[0] * patch[1], dim),
        )
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + rows * columns, dim))
        self.dropout = nn.Dropout(emb_dropout)
        parts = dict(dim_head=dim_head, mlp_dim=mlp_dim, dropout=dropout)
        stages = []
        for stage, blocks in enumerate(depth):
            if stages:
                stages.append(Pool(dim, rows))
                dim, rows = 2 * dim, (rows + 1) // 2
            stages.append(self.stage(dim, blocks, heads if isinstance(heads, int) else heads[stage], **parts))
        self.layers = nn.Sequential(*stages)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    @staticmethod
    def stage(dim, depth, heads, dim_head, mlp_dim, dropout):
        attention, feedforward = (heads, dim_head, dropout), (mlp_dim, dropout)
        return Transformer(depth, lambda: Attention(dim, *attention), lambda: FeedForward(dim, *feedforward))

    def forward(self, images: Tensor) -> Tensor:
        cls = self.cls_token.expand(len(images), -1, -1)
        x = torch.cat([cls, self.to_patch_embedding(images)], dim=1)
        x = self.layers(self.dropout(x + self.pos_embedding[:, : x.shape[1]]))
        return self.mlp_head(x[:, 0])
