"""Three things everyone should know about Vision Transformers, arXiv:2203.09795; upstream module `parallel_vit`."""

from einops.layers.torch import Rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention, FeedForward, Transformer
from vit_torch_ref.models.vit import HeadNormViT


def patch_projection(patch_size, channels, dim) -> nn.Sequential:
    """`[b c H W] -> [b (h w) d]`, without norms."""
    p, q = patch_size
    cut = Rearrange('b c (h p) (w q) -> b (h w) (p q c)', p=p, q=q)
    return nn.Sequential(cut, nn.Linear(p * q * channels, dim))


class Parallel(nn.Module):
    def __init__(self, branches):
        super().__init__()
        self.fns = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (branch(x) for branch in self.fns)
        for output in others:
            first = first + output
        return first


class ViT(HeadNormViT):
    patches = staticmethod(patch_projection)

    def __init__(self, *, num_parallel_branches=2, **kwargs):
        self.branches = num_parallel_branches
        super().__init__(**kwargs)

    def trunk(self, dim, depth, heads, dim_head, mlp_dim, dropout):
        return Transformer(
            depth,
            lambda: Parallel(Attention(dim, heads, dim_head, dropout) for _ in range(self.branches)),
            lambda: Parallel(FeedForward(dim, mlp_dim, dropout) for _ in range(self.branches)),
        )
