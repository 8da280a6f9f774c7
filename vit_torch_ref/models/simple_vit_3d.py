"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580, for videos; upstream module `simple_vit_3d`."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from vit_torch_ref.blocks import Transformer, pair
from vit_torch_ref.models.simple_vit import Attention, FeedForward
from vit_torch_ref.models.vit_3d import video_patches


def sincos_3d(steps: tuple[int, int, int], dim: int) -> Tensor:
    """Columns before rows before frames, sines before cosines, `[t * h * w, dim]`."""
    # upstream: the position table is computed in float32, whose sines differ between builds of torch.
    frequencies = 10000.0 ** -torch.linspace(0, 1, dim // 6, dtype=torch.float64)
    places = torch.cartesian_prod(*map(torch.arange, steps)).double()
    angles = rearrange(places.flip(1)[..., None] * frequencies, 'n a f -> n a 1 f')
    table = torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)
    return pad(table, (0, dim - table.shape[1]))


class SimpleViT(nn.Module):
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
    ):
        super().__init__()
        self.to_patch_embedding = video_patches(frame_patch_size, pair(image_patch_size), channels, dim, 't h w')
        self.transformer = self.trunk(dim, depth, heads, dim_head, mlp_dim)
        self.linear_head = nn.Linear(dim, num_classes)

    def trunk(self, dim, depth, heads, dim_head, mlp_dim):
        return Transformer(depth, lambda: Attention(dim, heads, dim_head), lambda: FeedForward(dim, mlp_dim), dim=dim)

    def forward(self, video: Tensor) -> Tensor:
        boxes = self.to_patch_embedding(video)
        positions = sincos_3d(boxes.shape[1:4], boxes.shape[-1])
        return self.linear_head(self.transformer(boxes.flatten(1, 3) + positions.to(boxes)).mean(dim=1))
