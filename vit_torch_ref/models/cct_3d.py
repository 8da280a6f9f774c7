"""Escaping the Big Data Paradigm with Compact Transformers, arXiv:2104.05704; upstream module `cct_3d`."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from vit_torch_ref.blocks import pair
from vit_torch_ref.models import cct


class TransformerClassifier(cct.TransformerClassifier):
    """That of `cct`, with its sines in a buffer."""

    def __init__(self, *, positional_embedding='sine', **kwargs):
        super().__init__(positional_embedding=positional_embedding, **kwargs)
        if positional_embedding == 'sine':
            table = self.positional_emb.data
            del self.positional_emb
            self.register_buffer('positional_emb', table)


class Tokenizer(nn.Module):
    def __init__(self, widths, conv, pool):
        super().__init__()
        self.conv_layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv3d(*inside_out, bias=False, **conv), nn.ReLU(), nn.MaxPool3d(**pool))
                for inside_out in pairwise(widths)
            )
        )

    def forward(self, video: Tensor) -> Tensor:
        return self.conv_layers(video).flatten(2).mT


class CCT(nn.Module):
    def __init__(
        self,
        *,
        num_frames=8,
        img_size=224,
        n_input_channels=3,
        embedding_dim=768,
        n_conv_layers=1,
        frame_kernel_size=3,
        frame_padding=None,
        frame_stride=1,
        kernel_size=7,
        padding=3,
        stride=2,
        frame_pooling_kernel_size=1,
        frame_pooling_padding=None,
        frame_pooling_stride=1,
        pooling_kernel_size=3,
        pooling_padding=1,
        pooling_stride=2,
        dropout_rate=0.0,
        **classifier,
    ):
        super().__init__()
        if frame_padding is None:
            frame_padding = frame_kernel_size // 2
        if frame_pooling_padding is None:
            frame_pooling_padding = frame_pooling_kernel_size // 2
        conv = dict(
            kernel_size=(frame_kernel_size, kernel_size, kernel_size),
            padding=(frame_padding, padding, padding),
            stride=(frame_stride, stride, stride),
        )
        pool = dict(
            kernel_size=(frame_pooling_kernel_size, pooling_kernel_size, pooling_kernel_size),
            padding=(frame_pooling_padding, pooling_padding, pooling_padding),
            stride=(frame_pooling_stride, pooling_stride, pooling_stride),
        )
        self.tokenizer = Tokenizer([n_input_channels, *[64] * (n_conv_layers - 1), embedding_dim], conv, pool)
        with torch.no_grad():
            length = self.tokenizer(torch.zeros(1, n_input_channels, num_frames, *pair(img_size))).shape[1]
        self.classifier = TransformerClassifier(
            sequence_length=length, dropout_rate=dropout_rate, embedding_dim=embedding_dim, **classifier
        )

    def forward(self, video: Tensor, keep_paths: Tensor | None = None) -> Tensor:
        return self.classifier(self.tokenizer(video), keep_paths)


def preset(num_layers, num_heads, mlp_ratio, embedding_dim):
    def build(*, kernel_size=3, stride=None, padding=None, **kwargs):
        half = kernel_size // 2
        return CCT(
            kernel_size=kernel_size,
            stride=max(1, half - 1) if stride is None else stride,
            padding=max(1, half) if padding is None else padding,
            num_heads=num_heads,
            num_layers=num_layers,
            embedding_dim=embedding_dim,
            mlp_ratio=mlp_ratio,
            **kwargs,
        )

    return build


cct_2, cct_4 = preset(2, 2, 1, 128), preset(4, 2, 1, 128)
cct_6, cct_7, cct_8 = (preset(layers, 4, 2, 256) for layers in (6, 7, 8))
cct_14, cct_16 = preset(14, 6, 3, 384), preset(16, 6, 3, 384)
