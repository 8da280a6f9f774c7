"""CvT: Introducing Convolutions to Vision Transformers, arXiv:2103.15808; upstream module `cvt`."""

import torch
from einops import rearrange
from einops.layers.torch import Reduce
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer, softmax_attention


class LayerNorm(nn.Module):
    """Over the channels of `[b c h w]`."""

    def __init__(self, dim):
        super().__init__()
        shape = (1, dim, 1, 1)
        self.g, self.b = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        return centred / torch.sqrt(variance + 1e-5) * self.g + self.b


class FeedForward(nn.Module):
    def __init__(self, dim, mult, dropout):
        super().__init__()
        expand, contract = nn.Conv2d(dim, dim * mult, 1), nn.Conv2d(dim * mult, dim, 1)
        self.net = nn.Sequential(LayerNorm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Projection(nn.Module):
    def __init__(self, dim, features, kernel, stride):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(dim, dim, kernel, stride=stride, padding=kernel // 2, groups=dim, bias=False),
            nn.BatchNorm2d(dim),
            nn.Conv2d(dim, features, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Attention(nn.Module):
    def __init__(self, dim, proj_kernel, kv_proj_stride, heads, dropout, dim_head=64):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.to_q = Projection(dim, inner, proj_kernel, 1)
        self.to_kv = Projection(dim, 2 * inner, proj_kernel, kv_proj_stride)
        self.to_out = nn.Sequential(nn.Conv2d(inner, dim, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        x = self.norm(x)
        q = rearrange(self.to_q(x), 'b (e k) h w -> b e (h w) k', e=self.heads)
        k, v = rearrange(self.to_kv(x), 'b (kv e k) h w -> kv b e (h w) k', kv=2, e=self.heads)
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        return self.to_out(rearrange(x, 'b e (h w) k -> b (e k) h w', h=height))


STAGES = {
    's1': dict(emb_dim=64, emb_kernel=7, emb_stride=4, heads=1, depth=1),
    's2': dict(emb_dim=192, emb_kernel=3, emb_stride=2, heads=3, depth=2),
    's3': dict(emb_dim=384, emb_kernel=3, emb_stride=2, heads=6, depth=10),
}


class CvT(nn.Module):
    """Takes `s1_emb_dim` and so on for each key of STAGES."""

    def __init__(self, *, num_classes, dropout=0.0, channels=3, **settings):
        super().__init__()
        stages = []
        for prefix, defaults in STAGES.items():
            stage = dict(proj_kernel=3, kv_proj_stride=2, mlp_mult=4) | defaults
            stage |= {key: settings.pop(f'{prefix}_{key}') for key in stage if f'{prefix}_{key}' in settings}
            stages.append(self.stage(channels, dropout, **stage))
            channels = stage['emb_dim']
        if settings:
            raise TypeError(f'unknown arguments {sorted(settings)}')
        self.layers = nn.Sequential(*stages)
        self.to_logits = nn.Sequential(
            Reduce('b c h w -> b c', 'mean'), nn.Identity(), nn.Linear(channels, num_classes)
        )

    @staticmethod
    def stage(channels, dropout, emb_dim, emb_kernel, emb_stride, proj_kernel, kv_proj_stride, heads, depth, mlp_mult):
        return nn.Sequential(
            nn.Conv2d(channels, emb_dim, emb_kernel, stride=emb_stride, padding=emb_kernel // 2),
            LayerNorm(emb_dim),
            Transformer(
                depth,
                lambda: Attention(emb_dim, proj_kernel, kv_proj_stride, heads, dropout),
                lambda: FeedForward(emb_dim, mlp_mult, dropout),
            ),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.to_logits(self.layers(images))
