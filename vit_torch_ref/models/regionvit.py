"""RegionViT: Regional-to-Local Attention for Vision Transformers, arXiv:2106.02689; upstream module `regionvit`."""

import torch
from einops import rearrange
from einops.layers.torch import Rearrange, Reduce
from torch import Tensor, nn
from torch.nn.functional import pad

from vit_torch_ref.models.cvt import LayerNorm
from vit_torch_ref.models.scalable_vit import PEG, Downsample


def feed_forward(dim, dropout):
    expand, contract = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
    return nn.Sequential(nn.LayerNorm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract)


class Attention(nn.Module):
    def __init__(self, dim, dropout, heads=4, dim_head=32):
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        inner = heads * dim_head
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        x = self.dropout((q @ k.mT * self.scale + bias).softmax(dim=-1)) @ v
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class RegionTransformer(nn.Module):
    def __init__(self, dim, depth, window, attn_dropout, ff_dropout, heads=4):
        super().__init__()
        self.span = 2 * window - 1
        self.local_rel_pos_bias = nn.Embedding(self.span**2, heads)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, attn_dropout, heads), feed_forward(dim, ff_dropout)]) for _ in range(depth)
        )

    def bias(self, p, q):
        places = torch.cartesian_prod(torch.arange(p), torch.arange(q))
        down, right = (places[:, None] - places[None] + self.span // 2).unbind(dim=-1)
        return pad(rearrange(self.local_rel_pos_bias(down + self.span * right), 'n m e -> e n m'), (1, 0, 1, 0))

    def forward(self, local: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        h, w = regions.shape[2:]
        p, q = local.shape[2] // h, local.shape[3] // w
        bias = self.bias(p, q)
        regions = rearrange(regions, 'b d h w -> b (h w) d')
        local = rearrange(local, 'b d (h p) (w q) -> (b h w) (p q) d', h=h, w=w)
        for attention, feedforward in self.layers:
            regions = regions + attention(regions)
            both = torch.cat([regions.reshape(-1, 1, regions.shape[2]), local], dim=1)
            both = both + attention(both, bias)
            both = both + feedforward(both)
            regions, local = both[:, 0].unflatten(0, (-1, h * w)), both[:, 1:]
        local = rearrange(local, '(b h w) (p q) d -> b d (h p) (w q)', h=h, w=w, p=p)
        return local, rearrange(regions, 'b (h w) d -> b d h w', h=h)


class RegionViT(nn.Module):
    def __init__(
        self,
        *,
        num_classes=1000,
        depth=(2, 2, 8, 2),
        dim=(64, 128, 256, 512),
        use_peg=False,
        window_size=7,
        local_patch_size=4,
        tokenize_local_3_conv=False,
        channels=3,
        ff_dropout=0.0,
        attn_dropout=0.0,
    ):
        super().__init__()
        dims, depths = (value if isinstance(value, tuple) else (value,) * 4 for value in (dim, depth))
        first, side = dims[0], local_patch_size * window_size

        def shrink(before):
            return [nn.Conv2d(before, first, 3, padding=1, stride=2), LayerNorm(first), nn.GELU()]

        # as upstream, see vit_flax, but for its 3 channels
        if tokenize_local_3_conv:
            last = nn.Conv2d(first, first, 3, padding=1)
            self.local_encoder = nn.Sequential(*shrink(channels), *shrink(first), last)
        else:
            self.local_encoder = nn.Conv2d(channels, first, 8, padding=3, stride=4)
        self.region_encoder = nn.Sequential(
            Rearrange('b c (h p) (w q) -> b (c p q) h w', p=side, q=side), nn.Conv2d(channels * side**2, first, 1)
        )
        self.layers = nn.ModuleList()
        for stage in range(4):
            width, before = dims[stage], dims[max(stage - 1, 0)]
            down = Downsample(before, width) if stage else nn.Identity()
            peg = PEG(width) if stage and use_peg else nn.Identity()
            transformer = RegionTransformer(width, depths[stage], window_size, attn_dropout, ff_dropout)
            self.layers.append(nn.ModuleList([down, peg, transformer]))
        self.to_logits = nn.Sequential(
            Reduce('b c h w -> b c', 'mean'), nn.LayerNorm(dims[-1]), nn.Linear(dims[-1], num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        local, regions = self.local_encoder(images), self.region_encoder(images)
        for down, peg, transformer in self.layers:
            local, regions = transformer(peg(down(local)), down(regions))
        return self.to_logits(regions)
