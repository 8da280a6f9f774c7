"""XCiT: Cross-Covariance Image Transformers, arXiv:2106.09681; upstream module `xcit`."""

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize

from vit_torch_ref.blocks import FeedForward, pair, patch_embedding, softmax_attention


class LayerScale(nn.Module):
    def __init__(self, dim, layer, fn):
        super().__init__()
        # as upstream, see vit_flax: no 1e-5 between
        self.scale = nn.Parameter(torch.full((dim,), 0.1 if layer < 18 else 1e-6))
        self.fn = fn

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        return self.scale * self.fn(x, *context)


class ClassAttention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.norm(x)
        q = rearrange(self.to_q(x), 'b n (e k) -> b e n k', e=self.heads)
        kv = self.to_kv(torch.cat([x, context], dim=1))
        k, v = rearrange(kv, 'b n (kv e k) -> kv b e n k', kv=2, e=self.heads)
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class XCAttention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[2]
        qkv = self.to_qkv(self.norm(x))
        q, k, v = rearrange(qkv, 'b h w (qkv e k) -> qkv b e k (h w)', qkv=3, e=self.heads)
        similarity = normalize(q, dim=-1) @ normalize(k, dim=-1).mT * self.temperature.exp()
        x = self.dropout(similarity.softmax(dim=-1)) @ v
        return self.to_out(rearrange(x, 'b e k (h w) -> b h w (e k)', w=width))


class LocalPatchInteraction(nn.Module):
    def __init__(self, dim, kernel):
        super().__init__()

        def depthwise():
            return nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)

        self.net = nn.Sequential(
            nn.LayerNorm(dim),
            Rearrange('b h w c -> b c h w'),
            depthwise(),
            nn.BatchNorm2d(dim),
            nn.GELU(),
            depthwise(),
            Rearrange('b c h w -> b h w c'),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Stack(nn.Module):
    """Blocks of scaled residual branches; the first branch of a block also sees the context."""

    def __init__(self, dim, depth, branches):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(LayerScale(dim, layer, branch()) for branch in branches) for layer in range(depth)
        )

    def forward(self, x: Tensor, *context: Tensor, keep=None) -> Tensor:
        for index, (first, *others) in enumerate(self.layers):
            if keep is None or keep[index]:
                x = x + first(x, *context)
                for branch in others:
                    x = x + branch(x)
        return x


class XCiT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        cls_depth,
        heads,
        dim_head=64,
        mlp_dim,
        local_patch_kernel_size=3,
        image_size,
        patch_size,
        channels=3,
        num_classes,
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.to_patch_embedding = patch_embedding((p, q), channels, dim, tokens='h w')
        self.pos_embedding = nn.Parameter(torch.randn(1, (h // p) * (w // q), dim))
        self.cls_token = nn.Parameter(torch.randn(dim))
        self.dropout = nn.Dropout(emb_dropout)
        attention = dict(dim=dim, heads=heads, dim_head=dim_head, dropout=dropout)

        def feedforward():
            return FeedForward(dim, mlp_dim, dropout)

        self.xcit_transformer = Stack(
            dim,
            depth,
            (
                lambda: XCAttention(**attention),
                lambda: LocalPatchInteraction(dim, local_patch_kernel_size),
                feedforward,
            ),
        )
        self.final_norm = nn.LayerNorm(dim)
        self.cls_transformer = Stack(dim, cls_depth, (lambda: ClassAttention(**attention), feedforward))
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, images: Tensor, keep_layers=None, keep_cls_layers=None) -> Tensor:
        x = self.to_patch_embedding(images)
        rows, columns = x.shape[1:3]
        positions = rearrange(self.pos_embedding[:, : rows * columns], '1 (h w) d -> 1 h w d', h=rows)
        x = self.final_norm(self.xcit_transformer(self.dropout(x + positions), keep=keep_layers))
        cls = self.cls_token.expand(len(images), 1, -1)
        cls = self.cls_transformer(cls, rearrange(x, 'b h w d -> b (h w) d'), keep=keep_cls_layers)
        return self.mlp_head(cls[:, 0])
