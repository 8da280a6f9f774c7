"""SepViT: Separable Vision Transformer, arXiv:2203.15380; upstream module `sep_vit`."""

import torch
from einops import rearrange
from einops.layers.torch import Rearrange, Reduce
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer, softmax_attention
from vit_torch_ref.models.cvt import FeedForward, LayerNorm
from vit_torch_ref.models.scalable_vit import PEG


class OverlappingPatches(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 2 * stride - 1, padding=stride - 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, window, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale, self.window = heads, dim_head**-0.5, window
        self.window_tokens = nn.Parameter(torch.randn(dim))
        self.norm, self.dropout = LayerNorm(dim), nn.Dropout(dropout)
        self.to_qkv = nn.Conv1d(dim, 3 * inner, 1, bias=False)
        self.window_tokens_to_qk = nn.Sequential(
            nn.LayerNorm(dim_head), nn.GELU(), Rearrange('b e m k -> b (e k) m'), nn.Conv1d(inner, 2 * inner, 1)
        )
        self.to_out = nn.Sequential(nn.Conv2d(inner, dim, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        h, w = (side // self.window for side in x.shape[2:])
        x = rearrange(self.norm(x), 'b d (h p) (w q) -> b h w d (p q)', h=h, w=w).flatten(0, 2)
        x = torch.cat([self.window_tokens[:, None].expand(len(x), -1, 1), x], dim=2)
        q, k, v = rearrange(self.to_qkv(x), 'b (qkv e k) n -> qkv b e n k', qkv=3, e=self.heads)
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        x = rearrange(x, '(b m) e n k -> b e m n k', m=h * w)
        places = x[..., 1:, :]
        if h * w > 1:
            qk = self.window_tokens_to_qk(x[..., 0, :])
            q, k = rearrange(qk, 'b (e qk k) m -> qk b e m k', qk=2, e=self.heads)
            mixed = softmax_attention(q, k, places.flatten(3), self.scale, self.dropout)
            places = mixed.unflatten(3, places.shape[3:])
        sides = dict(h=h, w=w, p=self.window)
        return self.to_out(rearrange(places, 'b e (h w) (p q) k -> b (e k) (h p) (w q)', **sides))


class Stage(Transformer):
    def __init__(self, dim, depth, attention, mult, dropout, norm):
        super().__init__(depth, attention, lambda: FeedForward(dim, mult, dropout))
        self.norm = LayerNorm(dim) if norm else nn.Identity()


class SepViT(nn.Module):
    def __init__(
        self,
        *,
        depth,
        dim,
        heads,
        num_classes,
        dim_head=32,
        window_size=7,
        dropout=0.0,
        ff_mult=4,
        channels=3,
        use_sizes=False,
    ):
        super().__init__()
        last = len(depth) - 1
        before = channels
        self.layers = nn.ModuleList()
        for stage, blocks in enumerate(depth):

            def own(value, stage=stage):
                return value[stage] if isinstance(value, tuple) else value

            width = dim << stage
            # as upstream, see vit_flax: the sizes given have no effect
            head, window = (dim_head, own(window_size)) if use_sizes else (32, 7)

            def attention(width=width, own=own, head=head, window=window):
                return Attention(width, own(heads), head, window, dropout)

            patches = OverlappingPatches(before, width, 2 if stage else 4)
            transformer = Stage(width, blocks, attention, ff_mult, dropout, stage < last)
            self.layers.append(nn.Sequential(patches, PEG(width), transformer))
            before = width
        self.mlp_head = nn.Sequential(
            Reduce('b c h w -> b c', 'mean'), nn.LayerNorm(before), nn.Linear(before, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.layers:
            x = stage(x)
        return self.mlp_head(x)
