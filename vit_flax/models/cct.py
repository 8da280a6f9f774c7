"""Escaping the Big Data Paradigm with Compact Transformers, arXiv:2104.05704.

vit-pytorch's `cct`: tokens come from convolutions with max pooling instead of patches, and a learned
weighting of all tokens stands in the place of the class token, so that a small transformer learns
from small data sets. Whole branches are dropped at random in training, deeper ones more often.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal, zeros

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_choice, check_divisible, check_images, pair
from vit_flax.blocks.dropping import draw_paths, path_rates
from vit_flax.blocks.grids import TokenGrid
from vit_flax.blocks.kernels.pooling import max_pool, pooled_length
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, repeat, to_float32
from vit_flax.blocks.torch_like import Conv, LayerNorm, gelu
from vit_flax.blocks.torch_like import Dense as TorchDense
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard

Dense = partial(TorchDense, kernel_init=normal(0.02), bias_init=zeros)


def sincos_1d(length: int, dim: int) -> np.ndarray:
    """Sine (even channels) and cosine (odd ones) of the position in the sequence, `[length dim]` in float64."""
    angles = np.arange(length)[:, None] / 10000.0 ** (2 * (np.arange(dim) // 2) / dim)
    return np.where(np.arange(dim) % 2 == 0, np.sin(angles), np.cos(angles))


class Attention(Module):
    """Multi-head self-attention, `[b n d] -> [b n d]`; the heads share the width."""

    heads: int = 8
    attention_dropout: float = 0.1
    projection_dropout: float = 0.1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        check_divisible('embedding_dim', dim, 'num_heads', self.heads)
        qkv = Dense(3 * dim, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        x = attend(self, q, k, v, scale=(dim // self.heads) ** -0.5, dropout=self.attention_dropout, train=train)
        x = Dense(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.projection_dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_qkv': 'qkv', 'to_out': 'proj'}


class EncoderLayer(Module):
    """Attention and a feed-forward network, each a branch that can be dropped, `[b n d] -> [b n d]`."""

    heads: int
    hidden_dim: int
    dropout: float = 0.1
    attention_dropout: float = 0.1

    @nn.compact
    def __call__(self, x: Array, train: bool = False, paths: Array | None = None) -> Array:
        """Args: x `[b n d]`; paths: a factor of each branch for each image, `[2 b]`."""
        dim = x.shape[-1]
        attention_path, feedforward_path = (1.0, 1.0) if paths is None else paths.astype(x.dtype)[..., None, None]
        y = LayerNorm(**self.precision, name='pre_norm')(x)
        y = Attention(self.heads, self.attention_dropout, self.dropout, **self.precision, name='attention')(y, train)
        # upstream: the residual stream itself is normalised before the feed-forward network, so that the sum does
        # not carry it on; the authors' code does the same.
        x = LayerNorm(**self.precision, name='norm')(x + attention_path * y)
        y = gelu(Dense(self.hidden_dim, **self.precision, name='expand')(x))
        y = nn.Dropout(self.dropout, name='hidden_dropout')(y, deterministic=not train)
        y = Dense(dim, **self.precision, name='contract')(y)
        y = nn.Dropout(self.dropout, name='dropout')(y, deterministic=not train)
        return self.tap('block', x + feedforward_path * y)

    torch_names = {'attention': 'self_attn', 'norm': 'norm1', 'expand': 'linear1', 'contract': 'linear2'}


class Tokenizer(Module):
    """Convolution, ReLU and max pooling, `n_conv_layers` times, `[b *space c] -> [b n d]`.

    Attributes:
      kernel_size, stride, padding: of the convolutions, one number for each axis of space; likewise of the pooling.
    """

    features: int
    n_conv_layers: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    pooling_kernel_size: tuple[int, ...]
    pooling_stride: tuple[int, ...]
    pooling_padding: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = 64
        for i in range(self.n_conv_layers):
            features = hidden if i < self.n_conv_layers - 1 else self.features
            fan_in = math.prod(self.kernel_size) * x.shape[-1]
            x = Conv(
                features,
                self.kernel_size,
                strides=self.stride,
                padding=self.padding,
                use_bias=False,
                kernel_init=normal(math.sqrt(2 / fan_in)),
                **self.precision,
                name=f'conv_{i}',
            )(x)
            x = max_pool(jax.nn.relu(x), self.pooling_kernel_size, self.pooling_stride, self.pooling_padding)
        return rearrange(x, 'b ... d -> b (...) d')

    def grid(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """Tokens along each axis that an input of this size becomes; none if it is too small."""
        for _ in range(self.n_conv_layers):
            for windows in (
                (self.kernel_size, self.stride, self.padding),
                (self.pooling_kernel_size, self.pooling_stride, self.pooling_padding),
            ):
                lengths = [max(0, pooled_length(*axis)) for axis in zip(lengths, *windows, strict=True)]
        return tuple(lengths)

    torch_names = {'conv_{i}': 'conv_layers.{i}.0'}


class TransformerClassifier(Module, kw_only=True):
    """CCT without its convolutions: tokens `[b n embedding_dim]` to logits `[b num_classes]`.

    Attributes:
      seq_pool: average all tokens with learned weights; False classifies a class token.
      embedding_dim: width of a token.
      num_layers: number of blocks.
      num_heads: attention heads in each, which share the width.
      mlp_ratio: hidden width of the feed-forward networks over `embedding_dim`.
      num_classes: width of the logits.
      dropout_rate: on the tokens and after each projection.
      attention_dropout: rate on the attention maps.
      stochastic_depth_rate: at which the last layer's branches are dropped; the first's never are.
      positional_embedding: 'sine' (fixed, in the collection `constants`), 'learnable', or 'none'.
      sequence_length: number of tokens; without positions also an upper bound, fewer are filled up with zeros,
        and None takes any number.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: an unknown kind of positions, positions without a length or of another length than the tokens,
        heads that do not divide the width, a stochastic depth of 1 or more.
    """

    seq_pool: bool = True
    embedding_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    dropout_rate: float = 0.1
    attention_dropout: float = 0.1
    stochastic_depth_rate: float = 0.1
    positional_embedding: str = 'sine'
    sequence_length: int | None = None
    scan: bool = False
    remat: Remat = False

    def setup(self) -> None:
        check_choice('positional_embedding', self.positional_embedding, ('sine', 'learnable', 'none'))
        if self.positional_embedding != 'none':
            if self.sequence_length is None:
                raise ValueError(
                    f'sequence_length=None does not go with positional_embedding={self.positional_embedding!r}: '
                    'say how many tokens there are'
                )
            shape = (self.sequence_length + (not self.seq_pool), self.embedding_dim)
            if self.positional_embedding == 'learnable':
                self.positions = self.param('positional_emb', normal(0.2), shape, self.param_dtype)
            else:
                # upstream: the sine table is a parameter that is not trained and so part of the state dict, in
                # float32; here it is a constant of the model's variables, which holds what the state dict holds.
                self.positions = self.variable(
                    'constants', 'positional_emb', lambda: jnp.asarray(sincos_1d(*shape), self.param_dtype)
                ).value
        if not self.seq_pool:
            self.class_emb = self.param('class_emb', zeros, (self.embedding_dim,), self.param_dtype)
        self.embedding_dropout = nn.Dropout(self.dropout_rate)
        self.transformer = Transformer(
            self.num_layers,
            partial(
                EncoderLayer,
                self.num_heads,
                int(self.embedding_dim * self.mlp_ratio),
                dropout=self.dropout_rate,
                attention_dropout=self.attention_dropout,
                **self.precision,
            ),
            norm=partial(LayerNorm, **self.precision),
            scan=self.scan,
            remat=self.remat,
        )
        if self.seq_pool:
            self.attention_pool = Dense(1, **self.precision)
        self.mlp_head = Dense(self.num_classes, **self.precision)

    def embed(self, tokens: Array, train: bool = False) -> Array:
        """A class token if there is one, and positions, `[b n d] -> [b n d]`."""
        length, room = tokens.shape[1], self.sequence_length
        x = tokens
        if self.positional_embedding == 'none':
            if room is not None and length < room:
                # upstream: fewer tokens than positional_embedding='none' was built for raise an AttributeError
                # (`n_channels`); here they are filled up with zeros, as was meant.
                x = jnp.pad(x, ((0, 0), (0, room - length), (0, 0)))
        elif length != room:
            raise ValueError(
                f'{length} tokens do not go with positions for {room}: give images of img_size, or '
                "positional_embedding='none' to take others"
            )
        if not self.seq_pool:
            cls, x = self.promote(repeat(self.class_emb, 'd -> b 1 d', b=x.shape[0]), x)
            x = jnp.concatenate([cls, x], axis=1)
        if self.positional_embedding != 'none':
            x, positions = self.promote(x, self.positions)
            x = add(x, positions)
        return self.tap('embedding', self.embedding_dropout(x, deterministic=not train))

    def encode(self, tokens: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """The blocks and a norm, `[b n d] -> [b n d]`."""
        rate, layers = self.stochastic_depth_rate, self.num_layers
        if keep_paths is None and train and rate > 0:
            keep_paths = draw_paths(self.make_rng('drop_path'), tokens.shape[0], rate, layers)
        if keep_paths is None:
            return self.transformer(tokens, train=train)
        survival = jnp.asarray(1 - path_rates(rate, layers), tokens.dtype)
        return self.transformer(tokens, train=train, paths=keep_paths / survival[:, None, None])

    def pool(self, tokens: Array) -> Array:
        """What the head takes, `[b n d] -> [b d]`."""
        if not self.seq_pool:
            return tokens[:, 0]
        weights = self.tap('pooling', jax.nn.softmax(to_float32(self.attention_pool(tokens)), axis=1))
        return (weights * to_float32(tokens)).sum(axis=1).astype(tokens.dtype)

    def __call__(self, tokens: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """Tokens to logits; `keep_paths` as for CCT."""
        return self.mlp_head(self.pool(self.encode(self.embed(tokens, train), train, keep_paths)))

    def position_tables(self) -> dict[str, PositionTable]:
        if self.positional_embedding != 'learnable' or self.sequence_length is None:
            return {}
        return {'positional_emb': PositionTable((self.sequence_length,), int(not self.seq_pool))}

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, self.sequence_length or 1, self.embedding_dim), jnp.float32)

    torch_names = {
        'positional_emb': ('positional_emb', UnitAxes((0,))),
        'class_emb': ('class_emb', UnitAxes((0, 1))),
        'transformer/block_{i}': 'blocks.{i}',
        'transformer/norm': 'norm',
        'mlp_head': 'fc',
    }


class CCT(Backbone, kw_only=True):
    """Compact Convolutional Transformer (arXiv:2104.05704): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      img_size: height and width in pixels, or one number for both.
      embedding_dim: width of a token.
      n_input_channels: of the images.
      n_conv_layers: convolutions of the tokenizer, all but the last 64 channels wide.
      kernel_size, stride, padding: of each of them; a stride of None is `max(1, kernel_size // 2 - 1)`, a padding of
        None `max(1, kernel_size // 2)`, as the paper's sizes have them.
      pooling_kernel_size, pooling_stride, pooling_padding: of the max pooling behind each.
      dropout_rate, attention_dropout, stochastic_depth_rate, seq_pool, num_layers, num_heads, mlp_ratio, num_classes,
        positional_embedding, scan, remat: see `TransformerClassifier`.

    Raises:
      ValueError: images of another layout or, with positions, of another size, and what `TransformerClassifier`
        refuses.
    """

    img_size: int | Sequence[int] = 224
    embedding_dim: int = 768
    n_input_channels: int = 3
    n_conv_layers: int = 1
    kernel_size: int = 7
    stride: int | None = 2
    padding: int | None = 3
    pooling_kernel_size: int = 3
    pooling_stride: int = 2
    pooling_padding: int = 1
    dropout_rate: float = 0.0
    attention_dropout: float = 0.1
    stochastic_depth_rate: float = 0.1
    # upstream: `CCT(seq_pool=...)` raises a TypeError, since the argument is also passed on by CCT itself; here it is
    # an argument like any other.
    seq_pool: bool = True
    num_layers: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    positional_embedding: str = 'sine'
    scan: bool = False
    remat: Remat = False

    head = ('classifier/mlp_head',)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the input's axes between batch and channels."""
        return pair(self.img_size, 'img_size')

    @property
    def stated_size(self) -> str:
        """The arguments that say how large the input is, for errors."""
        return f'img_size={pair(self.img_size)}'

    @property
    def windows(self) -> tuple[tuple[int, ...], ...]:
        """Size, stride and padding along each axis, of the convolutions and of the pooling."""
        half = self.kernel_size // 2
        stride = max(1, half - 1) if self.stride is None else self.stride
        padding = max(1, half) if self.padding is None else self.padding
        pooling = self.pooling_kernel_size, self.pooling_stride, self.pooling_padding
        return tuple((n, n) for n in (self.kernel_size, stride, padding, *pooling))

    def setup(self) -> None:
        self.tokenizer = Tokenizer(self.embedding_dim, self.n_conv_layers, *self.windows, **self.precision)
        tokens = math.prod(self.tokenizer.grid(self.lengths))
        if tokens < 1:
            raise ValueError(f'{self.stated_size} is too small: convolutions and pooling leave nothing of it')
        self.classifier = TransformerClassifier(
            sequence_length=tokens,
            embedding_dim=self.embedding_dim,
            dropout_rate=self.dropout_rate,
            attention_dropout=self.attention_dropout,
            stochastic_depth_rate=self.stochastic_depth_rate,
            seq_pool=self.seq_pool,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            num_classes=self.num_classes,
            positional_embedding=self.positional_embedding,
            scan=self.scan,
            remat=self.remat,
            **self.precision,
        )

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, `[b h w c] -> [b n d]`."""
        check_images(images, self.n_input_channels, self.layout)
        return self.classifier.embed(self.tokenizer(images), train)

    def encode(self, tokens: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """The blocks and a norm, `[b n d] -> [b n d]`."""
        return self.classifier.encode(tokens, train, keep_paths)

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """Pooled tokens to logits, `[b n d] -> [b num_classes]`."""
        return self.classifier.mlp_head(self.tap('to_latent', self.classifier.pool(tokens)))

    def __call__(self, images: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: dropout and stochastic depth.
          keep_paths: bool `[num_layers 2 b]`, which branches run for which image, in place of `draw_paths` from the
            rng `drop_path`.
        """
        tokens = self.encode(self.embed(images, train), train, keep_paths)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        tokenizer = Tokenizer(self.embedding_dim, self.n_conv_layers, *self.windows, parent=None)
        return (TokenGrid(tokenizer.grid(lengths), prefix=int(not self.seq_pool)),)

    def position_tables(self) -> dict[str, PositionTable]:
        if self.positional_embedding != 'learnable':
            return {}
        (tokens,) = self.token_grids(self.lengths)
        return {'classifier/positional_emb': PositionTable(tokens.shape, tokens.prefix)}

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *self.lengths, self.n_input_channels), jnp.float32)


def published_size(num_layers: int, num_heads: int, mlp_ratio: float, embedding_dim: int) -> dict[str, Any]:
    """Keyword arguments of one of the paper's sizes."""
    return dict(
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        embedding_dim=embedding_dim,
        kernel_size=3,
        stride=None,
        padding=None,
    )


PRESETS = {
    'cct_2': published_size(2, 2, 1, 128),
    'cct_4': published_size(4, 2, 1, 128),
    'cct_6': published_size(6, 4, 2, 256),
    'cct_7': published_size(7, 4, 2, 256),
    'cct_8': published_size(8, 4, 2, 256),
    'cct_14': published_size(14, 6, 3, 384),
    'cct_16': published_size(16, 6, 3, 384),
}


def cct_2(**kwargs: Any) -> CCT:
    """CCT of 2 layers, 128 wide; takes CCT's other arguments."""
    return CCT(**{**PRESETS['cct_2'], **kwargs})


def cct_4(**kwargs: Any) -> CCT:
    """CCT of 4 layers, 128 wide; takes CCT's other arguments."""
    return CCT(**{**PRESETS['cct_4'], **kwargs})


def cct_6(**kwargs: Any) -> CCT:
    """CCT of 6 layers, 256 wide; takes CCT's other arguments."""
    return CCT(**{**PRESETS['cct_6'], **kwargs})


def cct_7(**kwargs: Any) -> CCT:
    """CCT of 7 layers, 256 wide; takes CCT's other arguments."""
    return CCT(**{**PRESETS['cct_7'], **kwargs})


def cct_8(**kwargs: Any) -> CCT:
    """CCT of 8 layers, 256 wide; takes CCT's other arguments."""
    return CCT(**{**PRESETS['cct_8'], **kwargs})


def cct_14(**kwargs: Any) -> CCT:
    """CCT of 14 layers, 384 wide; takes CCT's other arguments."""
    return CCT(**{**PRESETS['cct_14'], **kwargs})


def cct_16(**kwargs: Any) -> CCT:
    """CCT of 16 layers, 384 wide; takes CCT's other arguments."""
    return CCT(**{**PRESETS['cct_16'], **kwargs})


def checkpoint(layers: int, kernel: int, convolutions: int, image_size: int, positions: str, classes: int) -> dict:
    """Arguments of a network that the authors have published weights of, such as CCT-7/3x1."""
    return PRESETS[f'cct_{layers}'] | dict(
        img_size=image_size,
        kernel_size=kernel,
        n_conv_layers=convolutions,
        stride=max(1, kernel // 2 - 1),
        padding=kernel // 2,
        positional_embedding=positions,
        num_classes=classes,
    )


# The eight files of github.com/SHI-Labs/Compact-Transformers, by their names; vit-pytorch has the same.
CHECKPOINTS = {
    'cct_7_3x1_32': checkpoint(7, 3, 1, 32, 'learnable', 10),
    'cct_7_3x1_32_sine': checkpoint(7, 3, 1, 32, 'sine', 10),
    'cct_7_3x1_32_c100': checkpoint(7, 3, 1, 32, 'learnable', 100),
    'cct_7_3x1_32_sine_c100': checkpoint(7, 3, 1, 32, 'sine', 100),
    'cct_7_7x2_224_sine': checkpoint(7, 7, 2, 224, 'sine', 102),
    'cct_14_7x2_224': checkpoint(14, 7, 2, 224, 'learnable', 1000),
    'cct_14_7x2_384': checkpoint(14, 7, 2, 384, 'learnable', 1000),
    'cct_14_7x2_384_fl': checkpoint(14, 7, 2, 384, 'learnable', 102),
}


CARD = ModelCard(
    CCT,
    title='Escaping the Big Data Paradigm with Compact Transformers',
    arxiv='2104.05704',
    takes='image [b h w c]',
    paper_size=dict(
        img_size=224,
        embedding_dim=384,
        n_conv_layers=2,
        kernel_size=7,
        stride=2,
        padding=3,
        num_layers=14,
        num_heads=6,
        mlp_ratio=3.0,
        num_classes=1000,
        positional_embedding='learnable',
        attention_dropout=0.0,
        stochastic_depth_rate=0.0,
    ),
    presets={**PRESETS, **CHECKPOINTS},
)
