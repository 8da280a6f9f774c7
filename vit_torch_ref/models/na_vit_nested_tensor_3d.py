"""NaViT of volumes on nested tensors; upstream module `na_vit_nested_tensor_3d`. Each volume is computed alone."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair
from vit_torch_ref.models.na_vit_nested_tensor import NestedNaViT


class NaViT(NestedNaViT):
    def __init__(
        self,
        *,
        image_size,
        max_frames,
        patch_size,
        frame_patch_size,
        channels=3,
        dim,
        dim_head=64,
        dropout=0.0,
        emb_dropout=0.0,
        num_registers=4,
        qk_rmsnorm=True,
        token_dropout_prob=None,
        train_embedding=False,
        **sizes,
    ):
        (height, width), (p, q), r = pair(image_size), pair(patch_size), frame_patch_size
        lengths = {'frame': max_frames // r, 'height': height // p, 'width': width // q}
        super().__init__(
            {f'pos_embed_{axis}': count for axis, count in lengths.items()},
            channels * r * p * q,
            dim=dim,
            dim_head=dim_head,
            dropout=dropout,
            emb_dropout=emb_dropout,
            qk_rmsnorm=qk_rmsnorm,
            train_embedding=train_embedding,
            **sizes,
        )
        self.patch = r, p, q
        self.register_tokens = nn.Parameter(0.02 * torch.randn(num_registers, dim))

    def patches(self, images: Tensor) -> Tensor:
        r, p, q = self.patch
        return rearrange(images, 'b c (t r) (h p) (w q) -> b t h w (c r p q)', r=r, p=p, q=q)

    def registers(self, x: Tensor) -> Tensor:
        return torch.cat([self.register_tokens.expand(len(x), -1, -1), x], dim=1)
