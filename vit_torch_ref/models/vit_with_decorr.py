"""Decorrelation Speeds Up Vision Transformers, arXiv:2510.14657; upstream module `vit_with_decorr`.

The draw of tokens is an argument.
"""

import torch
from torch import Tensor, nn

from vit_torch_ref import blocks
from vit_torch_ref.models.vit import HeadNormViT


class DecorrelationLoss(nn.Module):
    def __init__(
        self,
        sample_frac=1.0,
        use_subspace=False,
        num_subspaces=1,
        dim_subspace=64,
        dim=None,
        mean_center=False,
        across_depth=False,
    ):
        super().__init__()
        self.mean_center, self.proj = mean_center, None
        if use_subspace:
            projections = [nn.init.orthogonal_(torch.empty(dim, dim_subspace)) for _ in range(num_subspaces)]
            del self.proj
            self.register_buffer('proj', torch.stack(projections))

    def forward(self, tokens: Tensor, sampled_tokens: Tensor | None = None) -> Tensor:
        if sampled_tokens is not None:
            tokens = torch.take_along_dim(tokens, sampled_tokens[..., None], dim=-2)
        spaces = [tokens] if self.proj is None else [tokens @ projection for projection in self.proj]
        losses = []
        for space in spaces:
            if self.mean_center:
                space = space - space.mean(dim=-2, keepdim=True)
            count, width = space.shape[-2:]
            products = space.mT @ space / count
            products = products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))
            per_sequence = products.square().sum(dim=(-2, -1)) / (width * (width - 1))
            losses.append(per_sequence.flatten(end_dim=-2).sum(dim=0) if per_sequence.ndim > 1 else per_sequence)
        return sum(losses[1:], losses[0]).mean()


class FeedForward(nn.Module):
    def __init__(self, dim, hidden_dim, dropout):
        super().__init__()
        expand, contract = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.net = nn.Sequential(expand, nn.GELU(), nn.Dropout(dropout), contract, nn.Dropout(dropout))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.norm(x))


class OpenTransformer(blocks.Transformer):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, given = [], []
        for block in self.layers:
            for branch in block:
                seen.append(branch.norm(x))
                given.append(branch(x))
                x = x + given[-1]
        return self.norm(x), torch.stack(seen), torch.stack(given)


class ViT(HeadNormViT):
    def __init__(
        self,
        *,
        dim,
        num_classes,
        decorr_sample_frac=1.0,
        decorr_mean_center=False,
        decorr_layer_outputs_across_depth=False,
        decorr_use_subspace=False,
        decorr_num_subspaces=1,
        decorr_dim_subspace=64,
        **kwargs,
    ):
        super().__init__(dim=dim, num_classes=num_classes, **kwargs)
        self.mlp_head = nn.Linear(dim, num_classes)
        self.across_depth, self.decorr_loss = decorr_layer_outputs_across_depth, None
        if decorr_sample_frac > 0:
            self.decorr_loss = DecorrelationLoss(
                use_subspace=decorr_use_subspace,
                num_subspaces=decorr_num_subspaces,
                dim_subspace=decorr_dim_subspace,
                dim=dim,
                mean_center=decorr_mean_center,
            )

    def trunk(self, dim, depth, heads, dim_head, mlp_dim, dropout):
        return OpenTransformer(
            depth,
            lambda: blocks.Attention(dim, heads, dim_head, dropout),
            lambda: FeedForward(dim, mlp_dim, dropout),
            dim=dim,
        )

    def forward(self, images: Tensor, return_decorr_aux_loss=None, sampled_tokens=None) -> tuple[Tensor, Tensor]:
        x, seen, given = self.transformer(self.embed(images))
        wanted = self.training if return_decorr_aux_loss is None else return_decorr_aux_loss
        logits = self.mlp_head(x[:, 0] if self.pool == 'cls' else x.mean(dim=1))
        if not wanted or self.decorr_loss is None:
            # a zero that one may differentiate
            return logits, 0 * logits.sum()
        inputs = torch.movedim(given, (0, 1, 2), (2, 1, 0)) if self.across_depth else seen
        return logits, self.decorr_loss(inputs, sampled_tokens)
