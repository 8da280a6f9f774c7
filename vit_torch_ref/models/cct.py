"""Escaping the Big Data Paradigm with Compact Transformers, arXiv:2104.05704; upstream module `cct`."""

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from vit_torch_ref.blocks import pair, softmax_attention


def sincos_1d(length, dim):
    place, channel = torch.arange(length).double(), torch.arange(dim)
    angles = torch.outer(place, 10000.0 ** (-2 * (channel // 2).double() / dim))
    return torch.where(channel % 2 == 0, angles.sin(), angles.cos()).float()


class Attention(nn.Module):
    def __init__(self, dim, heads, attention_dropout, dropout):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.map_dropout, self.out_dropout = nn.Dropout(attention_dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        x = softmax_attention(q, k, v, q.shape[-1] ** -0.5, self.map_dropout)
        return self.out_dropout(self.proj(rearrange(x, 'b e n k -> b n (e k)')))


class EncoderLayer(nn.Module):
    def __init__(self, dim, heads, hidden, dropout, attention_dropout, path_rate):
        super().__init__()
        self.path_rate = path_rate
        self.pre_norm, self.norm1 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attn = Attention(dim, heads, attention_dropout, dropout)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def path(self, y: Tensor, keep: Tensor | None) -> Tensor:
        return y if keep is None else y * keep.to(y)[:, None, None] / (1 - self.path_rate)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        first, second = (None, None) if keep is None else keep
        x = self.norm1(x + self.path(self.self_attn(self.pre_norm(x)), first))
        y = self.linear2(self.dropout(gelu(self.linear1(x))))
        return x + self.path(self.dropout(y), second)


class Tokenizer(nn.Module):
    def __init__(self, channels, features, layers, conv, pool):
        super().__init__()
        widths = [channels, *[64] * (layers - 1), features]
        self.conv_layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, bias=False, **conv), nn.ReLU(), nn.MaxPool2d(**pool))
                for before, after in pairwise(widths)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        return rearrange(self.conv_layers(images), 'b d h w -> b (h w) d')


class TransformerClassifier(nn.Module):
    def __init__(
        self,
        *,
        sequence_length=None,
        positional_embedding='sine',
        seq_pool=True,
        num_classes=1000,
        embedding_dim=768,
        num_heads=12,
        num_layers=12,
        mlp_ratio=4.0,
        stochastic_depth_rate=0.1,
        attention_dropout=0.1,
        dropout_rate=0.1,
    ):
        super().__init__()
        self.seq_pool, self.length = seq_pool, sequence_length
        rates = torch.linspace(0, stochastic_depth_rate, num_layers).tolist()
        hidden = int(embedding_dim * mlp_ratio)
        if seq_pool:
            self.attention_pool = nn.Linear(embedding_dim, 1)
        else:
            self.class_emb = nn.Parameter(torch.zeros(1, 1, embedding_dim))
        self.positional_emb = None
        if positional_embedding != 'none':
            table = sincos_1d(sequence_length + (not seq_pool), embedding_dim)[None]
            self.positional_emb = nn.Parameter(table, requires_grad=positional_embedding == 'learnable')
        self.dropout = nn.Dropout(dropout_rate)
        self.blocks = nn.ModuleList(
            EncoderLayer(embedding_dim, num_heads, hidden, dropout_rate, attention_dropout, rate) for rate in rates
        )
        self.norm, self.fc = nn.LayerNorm(embedding_dim), nn.Linear(embedding_dim, num_classes)

    def forward(self, x: Tensor, keep_paths: Tensor | None = None) -> Tensor:
        # upstream: without positions, fewer tokens than sequence_length crash on a misspelt attribute.
        if self.positional_emb is None and self.length is not None and x.shape[1] < self.length:
            x = pad(x, (0, 0, 0, self.length - x.shape[1]))
        if not self.seq_pool:
            x = torch.cat([self.class_emb.expand(len(x), -1, -1), x], dim=1)
        if self.positional_emb is not None:
            x = x + self.positional_emb
        x = self.dropout(x)
        for index, block in enumerate(self.blocks):
            x = block(x, None if keep_paths is None else keep_paths[index])
        x = self.norm(x)
        if self.seq_pool:
            weights = self.attention_pool(x)[..., 0].softmax(dim=1)
            return self.fc(torch.einsum('b n, b n d -> b d', weights, x))
        return self.fc(x[:, 0])


class CCT(nn.Module):
    def __init__(
        self,
        *,
        img_size=224,
        n_input_channels=3,
        embedding_dim=768,
        n_conv_layers=1,
        kernel_size=7,
        padding=3,
        stride=2,
        pooling_kernel_size=3,
        pooling_padding=1,
        pooling_stride=2,
        dropout_rate=0.0,
        **classifier,
    ):
        super().__init__()
        conv = dict(kernel_size=kernel_size, stride=stride, padding=padding)
        pool = dict(kernel_size=pooling_kernel_size, stride=pooling_stride, padding=pooling_padding)
        self.tokenizer = Tokenizer(n_input_channels, embedding_dim, n_conv_layers, conv, pool)
        with torch.no_grad():
            length = self.tokenizer(torch.zeros(1, n_input_channels, *pair(img_size))).shape[1]
        self.classifier = TransformerClassifier(
            sequence_length=length, dropout_rate=dropout_rate, embedding_dim=embedding_dim, **classifier
        )

    def forward(self, images: Tensor, keep_paths: Tensor | None = None) -> Tensor:
        return self.classifier(self.tokenizer(images), keep_paths)


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
