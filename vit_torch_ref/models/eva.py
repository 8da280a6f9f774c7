"""EVA-02: A Visual Representation for Neon Genesis, arXiv:2303.11331; upstream is timm's `Eva`."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair, softmax_attention
from vit_torch_ref.models.vision_transformer import NORMS, AttentionPool, Mlp, PatchEmbed


def turn(x: Tensor, angles: Tensor, half: bool) -> Tensor:
    """Each pair of channels as a complex number, times e to the i angle."""
    pattern = '... (two f) -> ... f two' if half else '... (f two) -> ... f two'
    first, second = rearrange(x, pattern, two=2).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
    return rearrange(turned, '... f two -> ... (two f)' if half else '... f two -> ... (f two)')


class Attention(nn.Module):
    def __init__(self, dim, heads, kv_heads, bias, key_bias, fused, norm, qk_norm, scale_norm, prefix, half):
        super().__init__()
        self.heads, self.kv_heads, self.prefix, self.half = heads, kv_heads, prefix, half
        width = dim // heads
        self.q_bias = self.v_bias = None
        if fused:
            self.qkv = nn.Linear(dim, 3 * dim, bias=bias and key_bias)
            if bias and not key_bias:
                self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        else:
            self.qkv = None
            self.q_proj = nn.Linear(dim, dim, bias=bias)
            self.k_proj = nn.Linear(dim, kv_heads * width, bias=bias and key_bias)
            self.v_proj = nn.Linear(dim, kv_heads * width, bias=bias)
        self.q_norm, self.k_norm = (norm(width) if qk_norm else nn.Identity() for _ in range(2))
        self.norm = norm(dim) if scale_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def split(self, x: Tensor):
        if self.qkv is None:
            q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        else:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            if self.q_bias is not None:
                q, v = q + self.q_bias, v + self.v_bias
        heads = self.heads, self.kv_heads, self.kv_heads
        return (rearrange(t, 'b n (e k) -> b e n k', e=e) for t, e in zip((q, k, v), heads, strict=True))

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        q, k, v = self.split(x)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = (
                torch.cat([t[:, :, : self.prefix], turn(t[:, :, self.prefix :], angles, self.half)], dim=2)
                for t in (q, k)
            )
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        x = softmax_attention(q, k, v, q.shape[-1] ** -0.5)
        return self.proj(self.norm(rearrange(x, 'b e n k -> b n (e k)')))


class Block(nn.Module):
    def __init__(self, dim, attn, mlp, norm, post_norm, scales):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp, self.post_norm = norm(dim), attn, norm(dim), mlp, post_norm
        self.gamma_1, self.gamma_2 = (
            None if start is None else nn.Parameter(torch.full((dim,), float(start))) for start in scales
        )

    def branch(self, x: Tensor, function, norm, gamma) -> Tensor:
        y = norm(function(x)) if self.post_norm else function(norm(x))
        return x + (y if gamma is None else gamma * y)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        x = self.branch(x, lambda x: self.attn(x, angles), self.norm1, self.gamma_1)
        return self.branch(x, self.mlp, self.norm2, self.gamma_2)


class Mixed(nn.Module):
    def __init__(self, depth, heads, width):
        super().__init__()
        self.freqs = nn.Parameter(torch.randn(2, depth, heads, width // 2))


class Eva(nn.Module):
    def __init__(
        self,
        img_size=224,
        patch_size=16,
        in_chans=3,
        num_classes=1000,
        global_pool='avg',
        embed_dim=768,
        depth=12,
        num_heads=12,
        num_kv_heads=None,
        qkv_bias=True,
        qkv_fused=True,
        qk_norm=False,
        mlp_ratio=4.0,
        swiglu_mlp=False,
        swiglu_align_to=0,
        scale_mlp=False,
        scale_attn_inner=False,
        attn_type='eva',
        init_values=None,
        attn_only_layer_scale=False,
        class_token=True,
        num_reg_tokens=0,
        no_embed_class=False,
        use_abs_pos_emb=True,
        use_rot_pos_emb=False,
        rope_type='cat',
        rope_grid_offset=0.0,
        rope_grid_indexing='ij',
        rope_temperature=10000.0,
        rope_rotate_half=False,
        rope_rescale_coords=None,
        use_post_norm=False,
        use_pre_transformer_norm=False,
        use_post_transformer_norm=None,
        use_fc_norm=None,
        attn_pool_num_heads=None,
        attn_pool_mlp_ratio=None,
        dynamic_img_size=False,
        dynamic_img_pad=False,
        ref_feat_shape=None,
        norm='layer',
        norm_eps=1e-6,
    ):
        super().__init__()
        dim, heads = embed_dim, num_heads
        self.patch, self.pad, self.global_pool = pair(patch_size), dynamic_img_pad, global_pool
        self.img_size, self.grid = (
            pair(img_size),
            tuple(n // p for n, p in zip(pair(img_size), self.patch, strict=True)),
        )
        self.num_prefix, self.no_embed_class = int(class_token) + num_reg_tokens, no_embed_class
        self.rotary = rope_type if use_rot_pos_emb else None
        self.offset, self.indexing, self.temperature = rope_grid_offset, rope_grid_indexing, rope_temperature
        self.reference, self.width = None if ref_feat_shape is None else pair(ref_feat_shape), dim // heads
        pooled = global_pool == 'avg' if use_fc_norm is None else use_fc_norm
        last = not pooled if use_post_transformer_norm is None else use_post_transformer_norm

        def normed(width):
            return NORMS[norm](width, eps=norm_eps)

        def learned(number):
            return nn.Parameter(torch.randn(1, number, dim) * 0.02) if number else None

        self.patch_embed = PatchEmbed(self.patch, in_chans, dim, not use_pre_transformer_norm, None)
        self.cls_token, self.reg_token = learned(int(class_token)), learned(num_reg_tokens)
        rows = self.grid[0] * self.grid[1] + (0 if no_embed_class else self.num_prefix)
        self.pos_embed = learned(rows if use_abs_pos_emb else 0)
        if self.rotary == 'mixed':
            self.rope = Mixed(depth, heads, self.width)
        self.norm_pre = normed(dim) if use_pre_transformer_norm else nn.Identity()
        hidden = int(dim * mlp_ratio)
        apart = scale_mlp or (swiglu_align_to and not use_post_norm)
        if swiglu_mlp and apart and swiglu_align_to:
            hidden = math.ceil(hidden / swiglu_align_to) * swiglu_align_to

        def feedforward():
            inner = normed if scale_mlp else None
            if not swiglu_mlp:
                return Mlp(dim, hidden, 'gelu', norm=inner)
            if apart:
                return Mlp(dim, hidden, 'silu', 'swiglu', norm=inner)
            return Mlp(dim, 2 * hidden, 'silu', 'swiglu_packed')

        each = num_kv_heads if isinstance(num_kv_heads, list | tuple) else [num_kv_heads or heads] * depth
        start = None if use_post_norm else init_values
        self.blocks = nn.ModuleList(
            Block(
                dim,
                Attention(
                    dim, heads, kv_heads, qkv_bias, attn_type == 'rope', qkv_fused, normed, qk_norm, scale_attn_inner,
                    self.num_prefix, rope_rotate_half,
                ),
                feedforward(),
                normed,
                use_post_norm,
                (start, None if attn_only_layer_scale else start),
            )
            for kv_heads in each
        )  # fmt: skip
        self.norm = normed(dim) if last else nn.Identity()
        self.attn_pool = None
        if global_pool == 'map':
            inner = int(dim * (attn_pool_mlp_ratio or mlp_ratio))
            self.attn_pool = AttentionPool(dim, attn_pool_num_heads or heads, lambda: Mlp(dim, inner, 'gelu'), normed)
        self.fc_norm = normed(dim) if pooled else nn.Identity()
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def positions(self, grid) -> Tensor:
        first = 0 if self.no_embed_class else self.num_prefix
        if tuple(grid) == self.grid:
            return self.pos_embed
        prefix, table = self.pos_embed[:, :first], self.pos_embed[:, first:]
        table = rearrange(table, '1 (h w) d -> 1 d h w', h=self.grid[0])
        table = F.interpolate(table, tuple(grid), mode='bicubic', antialias=True)
        return torch.cat([prefix, rearrange(table, '1 d h w -> 1 (h w) d')], dim=1)

    def coordinates(self, grid, dtype) -> Tensor:
        """`[n 2]`."""
        axes = []
        for axis, length in enumerate(grid):
            x = torch.arange(length, dtype=dtype)
            if self.rotary == 'dinov3':
                x = 2 * (x + 0.5 + self.offset) / length - 1
            elif self.rotary == 'cat':
                x = x + self.offset
                x = x if self.reference is None else x / length * self.reference[axis]
            axes.append(x)
        h, w = (t.flatten() for t in torch.meshgrid(*axes, indexing='ij'))
        return torch.stack([w, h] if self.indexing == 'xy' else [h, w], dim=-1)

    def angles(self, grid, dtype):
        """For each block."""
        dtype = torch.promote_types(dtype, torch.float32)
        if self.rotary is None:
            return [None] * len(self.blocks)
        first, second = self.coordinates(grid, dtype).unbind(-1)
        if self.rotary == 'mixed':
            freqs = self.rope.freqs.to(dtype)
            return list(first[:, None] * freqs[0, :, :, None] + second[:, None] * freqs[1, :, :, None])
        quarter = self.width // 4
        rates = self.temperature ** (-torch.arange(quarter, dtype=dtype) / quarter)
        rates = 2 * math.pi * rates if self.rotary == 'dinov3' else rates
        return [torch.cat([first[:, None] * rates, second[:, None] * rates], dim=-1)] * len(self.blocks)

    def forward_features(self, images: Tensor) -> Tensor:
        if self.pad and tuple(images.shape[-2:]) != self.img_size:
            (h, w), (p, q) = images.shape[-2:], self.patch
            images = F.pad(images, (0, -w % q, 0, -h % p))
        x = self.patch_embed(images)
        grid = x.shape[1:3]
        x = rearrange(x, 'b h w d -> b (h w) d')
        positions = 0 if self.pos_embed is None else self.positions(grid)
        x = x + positions if self.no_embed_class else x
        tokens = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        x = torch.cat([*tokens, x], dim=1)
        x = x if self.no_embed_class else x + positions
        x = self.norm_pre(x)
        for block, angles in zip(self.blocks, self.angles(grid, x.dtype), strict=True):
            x = block(x, angles)
        return self.norm(x)

    def pool(self, x: Tensor) -> Tensor:
        if self.attn_pool is not None:
            return self.attn_pool(x)
        if self.global_pool in ('', 'token'):
            return x if self.global_pool == '' else x[:, 0]
        x = x[:, self.num_prefix :]
        mean, largest = x.mean(dim=1), x.amax(dim=1)
        return {'avg': mean, 'max': largest, 'avgmax': (mean + largest) / 2}[self.global_pool]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.fc_norm(self.pool(self.forward_features(images))))
