"""Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377; upstream module `mae`.

`masked` and `visible` are the patches that upstream draws. The last three arguments are the paper's, not upstream's.
"""

import torch
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention, FeedForward, Transformer
from vit_torch_ref.objectives.encoder import patch_positions, position_table, prefix_tokens, take


class MAE(nn.Module):
    def __init__(
        self,
        *,
        decoder_dim,
        decoder_depth=1,
        decoder_heads=8,
        decoder_dim_head=64,
        encoder,
        masking_ratio=0.75,
        norm_pixels=False,
        class_token=False,
        masking='random',
    ):
        super().__init__()
        self.encoder, self.norm_pixels, self.class_token = encoder, norm_pixels, class_token
        self.to_patch, *layers = encoder.to_patch_embedding
        self.patch_to_emb = nn.Sequential(*layers)
        rows, dim = position_table(encoder).shape
        pixels = layers[1].in_features
        self.enc_to_dec = nn.Identity() if dim == decoder_dim else nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.randn(decoder_dim))
        self.decoder = Transformer(
            decoder_depth,
            lambda: Attention(decoder_dim, decoder_heads, decoder_dim_head),
            lambda: FeedForward(decoder_dim, 4 * decoder_dim),
            dim=decoder_dim,
        )
        self.decoder_pos_emb = nn.Embedding(rows, decoder_dim)
        self.to_pixels = nn.Linear(decoder_dim, pixels)

    def forward(self, images: Tensor, masked: Tensor, visible: Tensor) -> Tensor:
        patches = self.to_patch(images).flatten(1, -2)
        tokens = self.patch_to_emb(patches)
        tokens = take(tokens + patch_positions(self.encoder, tokens.shape[1]).to(tokens), visible)
        prefix = prefix_tokens(self.encoder, len(images))[:, : None if self.class_token else 0]
        encoded = self.enc_to_dec(self.encoder.transformer(torch.cat([prefix, tokens], dim=1)))

        first = prefix.shape[1]
        sequence = encoded.new_empty(len(images), first + patches.shape[1], encoded.shape[-1])
        sequence[:, :first] = encoded[:, :first]
        rows = torch.arange(len(images))[:, None]
        sequence[rows, first + visible] = encoded[:, first:]
        sequence[rows, first + masked] = self.mask_token
        decoded = self.decoder(sequence + self.decoder_pos_emb.weight[: sequence.shape[1]])

        target = take(patches, masked)
        if self.norm_pixels:
            target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        return nn.functional.mse_loss(self.to_pixels(decoded[rows, first + masked]), target)
