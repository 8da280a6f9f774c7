"""An Image is Worth 16x16 Words, arXiv:2010.11929; upstream is timm's `VisionTransformer`."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair, softmax_attention


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {
    'gelu': nn.GELU,
    'gelu_tanh': lambda: nn.GELU('tanh'),
    'quick_gelu': QuickGELU,
    'silu': nn.SiLU,
}
NORMS = {'layer': nn.LayerNorm, 'rms': nn.RMSNorm}


class Attention(nn.Module):
    def __init__(self, dim, heads, norm, qkv_bias, proj_bias, qk_norm, scale_norm, scale):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5 if scale is None else scale
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        if qk_norm:
            self.q_norm, self.k_norm = norm(dim // heads), norm(dim // heads)
        self.norm = norm(dim) if scale_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.qk_norm = qk_norm

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), 'b n (three e k) -> three b e n k', three=3, e=self.heads)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return self.proj(self.norm(rearrange(softmax_attention(q, k, v, self.scale), 'b e n k -> b n (e k)')))


class Mlp(nn.Module):
    def __init__(self, dim, hidden, act, kind='mlp', bias=True, norm=None):
        super().__init__()
        self.kind, self.act = kind, ACTIVATIONS[act]()
        inner = hidden // 2 if kind in ('glu', 'swiglu_packed') else hidden
        if kind == 'swiglu':
            self.fc1_g, self.fc1_x = nn.Linear(dim, hidden, bias=bias), nn.Linear(dim, hidden, bias=bias)
        else:
            self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.norm = nn.Identity() if norm is None else norm(inner)
        self.fc2 = nn.Linear(inner, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 'mlp':
            x = self.act(self.fc1(x))
        elif self.kind == 'swiglu':
            x = self.act(self.fc1_g(x)) * self.fc1_x(x)
        else:
            first, second = self.fc1(x).chunk(2, dim=-1)
            x = first * self.act(second) if self.kind == 'glu' else self.act(first) * second
        return self.fc2(self.norm(x))


class LayerScale(nn.Module):
    def __init__(self, dim, value):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, dim, attn, mlp, norm, init_values):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm(dim), attn(), norm(dim), mlp()
        scaled = bool(init_values)
        self.ls1, self.ls2 = (LayerScale(dim, init_values) if scaled else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, patch, channels, dim, bias, norm):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch, bias=bias)
        self.norm = nn.Identity() if norm is None else norm(dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(rearrange(self.proj(images), 'b d h w -> b h w d'))


class AttentionPool(nn.Module):
    def __init__(self, dim, heads, mlp, norm):
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.norm, self.mlp = norm(dim), mlp()

    def forward(self, x: Tensor) -> Tensor:
        q = rearrange(self.q(self.latent.expand(len(x), -1, -1)), 'b n (e k) -> b e n k', e=self.heads)
        k, v = rearrange(self.kv(x), 'b n (two e k) -> two b e n k', two=2, e=self.heads)
        x = self.proj(rearrange(softmax_attention(q, k, v, q.shape[-1] ** -0.5), 'b e n k -> b n (e k)'))
        return (x + self.mlp(self.norm(x)))[:, 0]


class VisionTransformer(nn.Module):
    def __init__(
        self,
        img_size=224,
        patch_size=16,
        in_chans=3,
        num_classes=1000,
        global_pool='token',
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        qkv_bias=True,
        qk_norm=False,
        scale_attn_norm=False,
        scale_mlp_norm=False,
        proj_bias=True,
        qk_scale=None,
        init_values=None,
        class_token=True,
        pos_embed='learn',
        no_embed_class=False,
        reg_tokens=0,
        distilled=False,
        pre_norm=False,
        final_norm=True,
        fc_norm=None,
        pool_include_prefix=False,
        representation_size=None,
        dynamic_img_size=False,
        dynamic_img_pad=False,
        patch_drop_rate=0.0,
        act='gelu',
        norm='layer',
        norm_eps=1e-6,
        embed_norm=False,
        mlp='mlp',
    ):
        super().__init__()
        self.img_size, self.patch, self.pad = pair(img_size), pair(patch_size), dynamic_img_pad
        self.grid = tuple(n // p for n, p in zip(pair(img_size), self.patch, strict=True))
        self.global_pool, self.no_embed_class, self.include_prefix = global_pool, no_embed_class, pool_include_prefix
        self.distilled, self.num_prefix = distilled, int(class_token) + int(distilled) + reg_tokens
        after_pooling = global_pool in ('avg', 'avgmax', 'max') if fc_norm is None else fc_norm
        dim, heads = embed_dim, num_heads

        def normed(width):
            return NORMS[norm](width, eps=norm_eps)

        def learned(number):
            return nn.Parameter(torch.randn(1, number, dim) * 0.02) if number else None

        self.cls_token, self.dist_token, self.reg_token = learned(class_token), learned(distilled), learned(reg_tokens)
        rows = self.grid[0] * self.grid[1] + (0 if no_embed_class else self.num_prefix)
        self.pos_embed = learned(rows) if pos_embed == 'learn' else None
        self.patch_embed = PatchEmbed(self.patch, in_chans, dim, not pre_norm, normed if embed_norm else None)
        self.norm_pre = normed(dim) if pre_norm else nn.Identity()
        hidden = int(dim * mlp_ratio)
        self.blocks = nn.Sequential(
            *(
                Block(
                    dim,
                    lambda: Attention(dim, heads, normed, qkv_bias, proj_bias, qk_norm, scale_attn_norm, qk_scale),
                    lambda: Mlp(dim, hidden, act, mlp, proj_bias, normed if scale_mlp_norm else None),
                    normed,
                    init_values,
                )
                for _ in range(depth)
            )
        )
        self.norm = normed(dim) if final_norm and not after_pooling else nn.Identity()
        self.attn_pool = (
            AttentionPool(dim, heads, lambda: Mlp(dim, hidden, act), normed) if global_pool == 'map' else None
        )
        self.fc_norm = normed(dim) if final_norm and after_pooling else nn.Identity()
        self.pre_logits = nn.Identity()
        if representation_size:
            self.pre_logits = nn.Sequential()
            self.pre_logits.add_module('fc', nn.Linear(dim, representation_size))
            self.pre_logits.add_module('act', nn.Tanh())
        width = representation_size or dim
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        self.head_dist = (nn.Linear(width, num_classes) if num_classes else nn.Identity()) if distilled else None

    def positions(self, grid) -> Tensor:
        first = 0 if self.no_embed_class else self.num_prefix
        if tuple(grid) == self.grid:
            return self.pos_embed
        prefix, table = self.pos_embed[:, :first], self.pos_embed[:, first:]
        table = rearrange(table, '1 (h w) d -> 1 d h w', h=self.grid[0])
        table = F.interpolate(table, tuple(grid), mode='bicubic', antialias=True)
        return torch.cat([prefix, rearrange(table, '1 d h w -> 1 (h w) d')], dim=1)

    def forward_features(self, images: Tensor) -> Tensor:
        if self.pad and tuple(images.shape[-2:]) != self.img_size:
            (h, w), (p, q) = images.shape[-2:], self.patch
            images = F.pad(images, (0, -w % q, 0, -h % p))
        x = self.patch_embed(images)
        positions = 0 if self.pos_embed is None else self.positions(x.shape[1:3])
        x = rearrange(x, 'b h w d -> b (h w) d')
        if self.no_embed_class:
            x = x + positions
        tokens = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.dist_token, self.reg_token) if t is not None]
        x = torch.cat([*tokens, x], dim=1)
        if not self.no_embed_class:
            x = x + positions
        return self.norm(self.blocks(self.norm_pre(x)))

    def pool(self, x: Tensor) -> Tensor:
        if self.global_pool in ('', 'token'):
            return x if self.global_pool == '' else x[:, 0]
        x = x if self.include_prefix else x[:, self.num_prefix :]
        if self.attn_pool is not None:
            return self.attn_pool(x)
        mean, largest = x.mean(dim=1), x.amax(dim=1)
        return {'avg': mean, 'max': largest, 'avgmax': (mean + largest) / 2}[self.global_pool]

    def forward(self, images: Tensor):
        x = self.forward_features(images)
        if self.distilled:
            logits = self.head(x[:, 0]), self.head_dist(x[:, 1])
            return logits if self.training else (logits[0] + logits[1]) / 2
        return self.head(self.pre_logits(self.fc_norm(self.pool(x))))
