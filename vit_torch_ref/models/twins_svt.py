"""Twins: Spatial Attention in Vision Transformers, arXiv:2104.13840; upstream module `twins_svt`."""

from einops import rearrange
from einops.layers.torch import Reduce
from torch import Tensor, nn

from vit_torch_ref.blocks import softmax_attention
from vit_torch_ref.models.cvt import FeedForward, LayerNorm
from vit_torch_ref.models.max_vit import Residual


class PatchEmbedding(nn.Module):
    def __init__(self, before, after, patch_size):
        super().__init__()
        self.sides = dict(p=patch_size, q=patch_size)
        width = before * patch_size**2
        self.proj = nn.Sequential(LayerNorm(width), nn.Conv2d(width, after, 1), LayerNorm(after))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(rearrange(x, 'b c (h p) (w q) -> b (c p q) h w', **self.sides))


class PEG(nn.Module):
    def __init__(self, dim, kernel):
        super().__init__()
        self.proj = Residual(nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Attention(nn.Module):
    """To summaries of windows, or inside windows."""

    def __init__(self, dim, dropout, summary=None, window=None, heads=8, dim_head=64):
        super().__init__()
        self.heads, self.scale, self.window = heads, dim_head**-0.5, window
        inner, step = heads * dim_head, summary or 1
        self.to_q = nn.Conv2d(dim, inner, 1, bias=False)
        self.to_kv = nn.Conv2d(dim, 2 * inner, step, stride=step, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(inner, dim, 1), nn.Dropout(dropout))
        self.norm = LayerNorm(dim)
        self.dropout = nn.Dropout(dropout) if window is None else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        rows, columns = x.shape[2:]
        p, q = (rows, columns) if self.window is None else (self.window, self.window)
        queries = rearrange(self.to_q(x), 'b (e k) (h p) (w q) -> (b h w) e (p q) k', e=self.heads, p=p, q=q)
        kv = self.to_kv(x)
        if self.window is None:
            p, q = kv.shape[2:]
        k, v = rearrange(kv, 'b (kv e k) (h p) (w q) -> kv (b h w) e (p q) k', kv=2, e=self.heads, p=p, q=q)
        x = softmax_attention(queries, k, v, self.scale, self.dropout)
        p, q = (rows, columns) if self.window is None else (self.window, self.window)
        sides = dict(h=rows // p, w=columns // q, p=p)
        return self.to_out(rearrange(x, '(b h w) e (p q) k -> b (e k) (h p) (w q)', **sides))


class Transformer(nn.Module):
    def __init__(self, dim, depth, window, summary, dropout):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(depth):
            inside = [Attention(dim, dropout, window=window), FeedForward(dim, 4, dropout)]
            across = [Attention(dim, dropout, summary=summary), FeedForward(dim, 4, dropout)]
            parts = [nn.Identity() if window is None else Residual(part) for part in inside]
            self.layers.append(nn.Sequential(*parts, *map(Residual, across)))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x)
        return x


STAGES = {
    's1': dict(emb_dim=64, patch_size=4, depth=1),
    's2': dict(emb_dim=128, patch_size=2, depth=1),
    's3': dict(emb_dim=256, patch_size=2, depth=5),
    's4': dict(emb_dim=512, patch_size=2, depth=4),
}


class TwinsSVT(nn.Module):
    """Takes `s1_emb_dim` and so on for each key of STAGES."""

    def __init__(self, *, num_classes, peg_kernel_size=3, dropout=0.0, channels=3, **settings):
        super().__init__()
        stages = []
        for prefix, defaults in STAGES.items():
            stage = dict(local_patch_size=7, global_k=7) | defaults
            stage |= {key: settings.pop(f'{prefix}_{key}') for key in stage if f'{prefix}_{key}' in settings}
            dim, window = stage['emb_dim'], None if prefix == 's4' else stage['local_patch_size']
            stages.append(
                nn.Sequential(
                    PatchEmbedding(channels, dim, stage['patch_size']),
                    Transformer(dim, 1, window, stage['global_k'], dropout),
                    PEG(dim, peg_kernel_size),
                    Transformer(dim, stage['depth'], window, stage['global_k'], dropout),
                )
            )
            channels = dim
        if settings:
            raise TypeError(f'unknown arguments {sorted(settings)}')
        pool = (Reduce('b c h w -> b c', 'mean'), nn.Identity())
        self.layers = nn.Sequential(*stages, *pool, nn.Linear(channels, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
