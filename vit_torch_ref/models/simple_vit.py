"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580; upstream module `simple_vit`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer, pair, patch_embedding, softmax_attention


def sincos_2d(h: int, w: int, dim: int) -> Tensor:
    """Columns before rows, sines before cosines, `[h * w, dim]`."""
    # upstream: the position table is computed in float32, whose sines differ between builds of torch.
    frequencies = 10000.0 ** -torch.linspace(0, 1, dim // 4, dtype=torch.float64)
    places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).double()
    y, x = (places[:, [axis]] * frequencies for axis in (0, 1))
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


class FeedForward(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        expand, contract = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.net = nn.Sequential(nn.LayerNorm(dim), expand, nn.GELU(), contract)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head):
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        return self.to_out(rearrange(softmax_attention(q, k, v, self.scale), 'b e n k -> b n (e k)'))


class SimpleViT(nn.Module):
    def __init__(self, *, dim, depth, heads, dim_head=64, mlp_dim, image_size, patch_size, channels=3, num_classes):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        self.positions = sincos_2d(h // p, w // q, dim)
        self.transformer = Transformer(
            depth, lambda: Attention(dim, heads, dim_head), lambda: FeedForward(dim, mlp_dim), dim=dim
        )
        self.linear_head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        x = self.transformer(x + self.positions.to(x))
        return self.linear_head(x.mean(dim=1))
