"""Qwen3-VL Technical Report, arXiv:2511.21631, a classifier; upstream is timm's `Qwen3VitClassifier`."""

import torch.nn.functional as F
from torch import Tensor, nn

from vit_torch_ref.models.qwen3_vit_encoder import Qwen3VitEncoder


class Qwen3VitClassifier(nn.Module):
    def __init__(
        self,
        num_classes=1000,
        global_pool='avg',
        encoder_pool='',
        final_norm=True,
        embed_dim=1152,
        merge_size=2,
        out_features=0,
        norm_eps=1e-6,
        **kwargs,
    ):
        super().__init__()
        self.encoder = Qwen3VitEncoder(
            embed_dim=embed_dim,
            merge_size=merge_size,
            out_features=out_features,
            norm_eps=norm_eps,
            global_pool=encoder_pool,
            **kwargs,
        )
        width = (out_features or embed_dim * merge_size**2) if encoder_pool == 'merge' else embed_dim
        self.global_pool, self.final_norm, self.eps = global_pool, final_norm, norm_eps
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.encoder(images).flatten(1, -2)
        x = x.mean(dim=1) if self.global_pool == 'avg' else x
        x = F.layer_norm(x, x.shape[-1:], eps=self.eps) if self.final_norm else x
        return self.head(x)
