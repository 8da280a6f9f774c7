"""Learning to Merge Tokens in Vision Transformers, arXiv:2202.12015; upstream module `vit_with_patch_merger`."""

import torch
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention, FeedForward, Transformer, pair, patch_embedding


class PatchMerger(nn.Module):
    def __init__(self, dim, num_tokens_out):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_tokens_out, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return torch.softmax(self.queries @ x.mT / x.shape[-1] ** 0.5, dim=-1) @ x


class MergingTransformer(Transformer):
    def __init__(self, depth, *branches, dim, merge_layer, tokens):
        super().__init__(depth, *branches, dim=dim)
        self.merge_layer = depth // 2 if merge_layer is None else merge_layer
        self.patch_merger = PatchMerger(dim, tokens)

    def forward(self, x: Tensor) -> Tensor:
        for number, (attention, feedforward) in enumerate(self.layers, start=1):
            x = x + attention(x)
            x = x + feedforward(x)
            if number == self.merge_layer:
                x = self.patch_merger(x)
        return self.norm(x)


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
        patch_merge_num_tokens=8,
        patch_merge_layer=None,
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + (h // p) * (w // q), dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = MergingTransformer(
            depth,
            lambda: Attention(dim, heads, dim_head, dropout),
            lambda: FeedForward(dim, mlp_dim, dropout),
            dim=dim,
            merge_layer=patch_merge_layer,
            tokens=patch_merge_num_tokens,
        )
        self.mlp_head = nn.Sequential(nn.Identity(), nn.Linear(dim, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        x = self.transformer(self.dropout(x + self.pos_embedding[:, : x.shape[1]]))
        return self.mlp_head(x.mean(dim=1))
