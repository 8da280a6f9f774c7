"""An Image is Worth 16x16 Words, arXiv:2010.11929, for videos; upstream module `vit_3d`."""

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention, FeedForward, Transformer, pair


def video_patches(frames: int, size: tuple[int, int], channels: int, dim: int, tokens: str) -> nn.Sequential:
    """`[b c T H W]` to tokens, arranged as `b {tokens} d`."""
    r, (p, q) = frames, size
    return nn.Sequential(
        Rearrange(f'b c (t r) (h p) (w q) -> b {tokens} (r p q c)', r=r, p=p, q=q),
        nn.LayerNorm(r * p * q * channels),
        nn.Linear(r * p * q * channels, dim),
        nn.LayerNorm(dim),
    )


class ViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        frames,
        frame_patch_size,
        image_size,
        image_patch_size,
        channels=3,
        num_classes,
        pool='cls',
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(image_patch_size)
        boxes = (frames // frame_patch_size) * (h // p) * (w // q)
        self.pool = pool
        self.to_patch_embedding = video_patches(frame_patch_size, (p, q), channels, dim, '(t h w)')
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + boxes, dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = Transformer(
            depth, lambda: Attention(dim, heads, dim_head, dropout), lambda: FeedForward(dim, mlp_dim, dropout)
        )
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, video: Tensor) -> Tensor:
        patches = self.to_patch_embedding(video)
        x = torch.cat([self.cls_token.expand(len(video), -1, -1), patches], dim=1)
        x = self.transformer(self.dropout(x + self.pos_embedding[:, : x.shape[1]]))
        return self.mlp_head(x[:, 0] if self.pool == 'cls' else x.mean(dim=1))
