"""ScalableViT, arXiv:2203.10790; upstream module `scalable_vit`."""

from einops import rearrange
from einops.layers.torch import Reduce
from torch import Tensor, nn

from vit_torch_ref.blocks import softmax_attention
from vit_torch_ref.models.cvt import FeedForward, LayerNorm


class PEG(nn.Module):
    def __init__(self, dim, kernel=3):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, kernel, groups=dim, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(x)


class Downsample(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Attention(nn.Module):
    """To a coarser map."""

    def __init__(self, dim, heads, dim_key, dim_value, dropout, step=1):
        super().__init__()
        self.heads, self.scale = heads, dim_key**-0.5
        self.norm, self.dropout = LayerNorm(dim), nn.Dropout(dropout)
        self.to_q = nn.Conv2d(dim, heads * dim_key, 1, bias=False)
        self.to_k = nn.Conv2d(dim, heads * dim_key, step, stride=step, bias=False)
        self.to_v = nn.Conv2d(dim, heads * dim_value, step, stride=step, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(heads * dim_value, dim, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        rows, x = x.shape[2], self.norm(x)
        q, k, v = (
            rearrange(t, 'b (e k) h w -> b e (h w) k', e=self.heads) for t in (self.to_q(x), self.to_k(x), self.to_v(x))
        )
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        return self.to_out(rearrange(x, 'b e (h w) k -> b (e k) h w', h=rows))


class WindowAttention(Attention):
    def __init__(self, dim, heads, dim_key, dim_value, dropout, window):
        super().__init__(dim, heads, dim_key, dim_value, dropout)
        self.window = window
        self.local_interactive_module = nn.Conv2d(heads * dim_value, heads * dim_value, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = (1, 1) if self.window is None else (side // self.window for side in x.shape[2:])
        x = self.norm(x)
        values = self.to_v(x)
        q, k, v = (
            rearrange(t, 'b (e k) (h p) (w q) -> (b h w) e (p q) k', e=self.heads, h=h, w=w)
            for t in (self.to_q(x), self.to_k(x), values)
        )
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        p = values.shape[2] // h
        x = rearrange(x, '(b h w) e (p q) k -> b (e k) (h p) (w q)', h=h, w=w, p=p)
        return self.to_out(x + self.local_interactive_module(values))


class Transformer(nn.Module):
    def __init__(self, dim, depth, scalable, windowed, mult, dropout, norm, paper_order):
        super().__init__()
        self.paper_order = paper_order
        self.layers = nn.ModuleList()
        for index in range(depth):
            feedforwards = [FeedForward(dim, mult, dropout) for _ in range(2)]
            peg = None if index else PEG(dim)
            self.layers.append(nn.ModuleList([scalable(), feedforwards[0], peg, feedforwards[1], windowed()]))
        self.norm = LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for scalable, first, peg, second, windowed in self.layers:
            x = x + scalable(x)
            x = x + first(x)
            x = x if peg is None else peg(x)
            # as upstream, see vit_flax: the feed-forward network comes first
            for part in (windowed, second) if self.paper_order else (second, windowed):
                x = x + part(x)
        return self.norm(x)


class ScalableViT(nn.Module):
    def __init__(
        self,
        *,
        depth,
        dim,
        heads,
        num_classes,
        window_size=None,
        reduction_factor,
        ssa_dim_key=32,
        ssa_dim_value=32,
        iwsa_dim_key=32,
        iwsa_dim_value=32,
        ff_expansion_factor=4,
        dropout=0.0,
        channels=3,
        paper_order=False,
    ):
        super().__init__()
        self.to_patches = nn.Conv2d(channels, dim, 7, padding=3, stride=4)
        last = len(depth) - 1
        self.layers = nn.ModuleList()
        for stage, blocks in enumerate(depth):
            width = dim << stage

            def own(value, stage=stage):
                return value[stage] if isinstance(value, tuple) else value

            def scalable(own=own, width=width):
                widths = own(ssa_dim_key), own(ssa_dim_value)
                return Attention(width, own(heads), *widths, dropout, own(reduction_factor))

            def windowed(own=own, width=width):
                widths = own(iwsa_dim_key), own(iwsa_dim_value)
                return WindowAttention(width, own(heads), *widths, dropout, own(window_size))

            parts = scalable, windowed, ff_expansion_factor, dropout, stage < last, paper_order
            down = Downsample(width, 2 * width) if stage < last else None
            self.layers.append(nn.ModuleList([Transformer(width, blocks, *parts), down]))
        self.mlp_head = nn.Sequential(
            Reduce('b c h w -> b c', 'mean'), nn.LayerNorm(dim << last), nn.Linear(dim << last, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patches(images)
        for transformer, down in self.layers:
            x = transformer(x)
            x = x if down is None else down(x)
        return self.mlp_head(x)
