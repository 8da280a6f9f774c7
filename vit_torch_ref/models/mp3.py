"""The ViT of Position Prediction as an Effective Pretraining Strategy, arXiv:2207.07611; upstream module `mp3`."""

from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import FeedForward, Transformer, pair, patch_embedding, softmax_attention
from vit_torch_ref.models.simple_vit import sincos_2d


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.to_q, self.to_kv = nn.Linear(dim, inner, bias=False), nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = rearrange(self.to_q(self.norm(x)), 'b n (e k) -> b e n k', e=self.heads)
        k, v = rearrange(self.to_kv(self.norm(context)), 'b m (kv e k) -> kv b e m k', kv=2, e=self.heads)
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class ContextTransformer(Transformer):
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for attention, feedforward in self.layers:
            x = x + attention(x, x if context is None else context)
            x = x + feedforward(x)
        return x


class ViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        image_size,
        patch_size,
        channels=3,
        num_classes,
        dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.num_patches = (h // p) * (w // q)
        self.to_patch_embedding = patch_embedding((p, q), channels, dim, 'h w')
        self.transformer = ContextTransformer(
            depth, lambda: Attention(dim, heads, dim_head, dropout), lambda: FeedForward(dim, mlp_dim, dropout)
        )
        self.linear_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        positions = sincos_2d(*x.shape[1:]).to(x)
        return self.linear_head(self.transformer(x.flatten(1, 2) + positions).mean(dim=1))
