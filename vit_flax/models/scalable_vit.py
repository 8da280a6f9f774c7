"""ScalableViT: Rethinking the Context-oriented Generalization of Vision Transformer, arXiv:2203.10790.

vit-pytorch's `scalable_vit`: blocks of two attentions. In the first, keys and values come from a
coarser map and may be narrower or wider than the token; the second looks into windows and adds a
convolution of the values, which mixes the windows. It differs from ViT in all of that,
in having no positions but a depthwise convolution, and in being averaged at the end.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images
from vit_flax.blocks.conv import PEG, ChannelLayerNorm, ConvFeedForward, PatchConv
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.stages import per_stage
from vit_flax.blocks.torch_like import Conv, Dense, LayerNorm, PointwiseConv
from vit_flax.blocks.windows import check_windows, from_windows, to_windows
from vit_flax.card import ModelCard


class ScalableSelfAttention(Module):
    """Attention to a coarser map, `[b h w d] -> [b h w d]`."""

    heads: int
    dim_key: int
    dim_value: int
    reduction_factor: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        _, height, width, dim = x.shape
        if min(height, width) < self.reduction_factor:
            raise ValueError(
                f'reduction_factor={self.reduction_factor} leaves nothing of the feature map of {height} x {width}'
            )
        keys, values = self.heads * self.dim_key, self.heads * self.dim_value
        x = ChannelLayerNorm(**self.precision, name='norm')(x)
        q = PointwiseConv(keys, use_bias=False, **self.precision, name='to_q')(x)
        k = PatchConv(keys, self.reduction_factor, use_bias=False, **self.precision, name='to_k')(x)
        v = PatchConv(values, self.reduction_factor, use_bias=False, **self.precision, name='to_v')(x)
        q, k, v = (rearrange(t, 'b h w (e k) -> b e (h w) k', e=self.heads) for t in (q, k, v))
        x = attend(self, q, k, v, scale=self.dim_key**-0.5, dropout=self.dropout, train=train)
        x = rearrange(x, 'b e (h w) k -> b h w (e k)', h=height)
        x = PointwiseConv(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class InteractiveWindowedSelfAttention(Module):
    """Attention inside windows and a convolution of the values, `[b h w d] -> [b h w d]`.

    Attributes:
      window_size: height and width of a window; None is the whole map.
    """

    heads: int
    dim_key: int
    dim_value: int
    window_size: int | None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        size = x.shape[1:3] if self.window_size is None else (self.window_size, self.window_size)
        windows = check_windows(x, size)
        keys, values = self.heads * self.dim_key, self.heads * self.dim_value
        x = ChannelLayerNorm(**self.precision, name='norm')(x)
        q = PointwiseConv(keys, use_bias=False, **self.precision, name='to_q')(x)
        k = PointwiseConv(keys, use_bias=False, **self.precision, name='to_k')(x)
        v = PointwiseConv(values, use_bias=False, **self.precision, name='to_v')(x)
        local = Conv(values, (3, 3), padding=1, **self.precision, name='local_interactive_module')(v)
        q, k, v = (split_heads(to_windows(t, size), self.heads) for t in (q, k, v))
        x = merge_heads(attend(self, q, k, v, scale=self.dim_key**-0.5, dropout=self.dropout, train=train))
        x = PointwiseConv(dim, **self.precision, name='to_out')(from_windows(x, size, windows) + local)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class ScalableBlock(Module):
    """Both attentions, each with a feed-forward network, `[b h w d] -> [b h w d]`."""

    heads: int
    ssa_dim_key: int
    ssa_dim_value: int
    reduction_factor: int
    iwsa_dim_key: int
    iwsa_dim_value: int
    window_size: int | None
    expansion: int
    dropout: float
    first: bool
    paper_order: bool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        first_feedforward, second_feedforward = (
            ConvFeedForward(self.expansion, self.dropout, **self.precision, name=f'{which}_feedforward')
            for which in ('first', 'second')
        )
        scalable = ScalableSelfAttention(
            self.heads,
            self.ssa_dim_key,
            self.ssa_dim_value,
            self.reduction_factor,
            self.dropout,
            **self.precision,
            name='scalable_attention',
        )
        windowed = InteractiveWindowedSelfAttention(
            self.heads,
            self.iwsa_dim_key,
            self.iwsa_dim_value,
            self.window_size,
            self.dropout,
            **self.precision,
            name='windowed_attention',
        )
        x = x + scalable(x, train)
        x = x + first_feedforward(x, train)
        if self.first:
            x = PEG(**self.precision, name='peg')(x)
        # upstream: the list of a block's parts and the names it is unpacked to differ in order, so that the second
        # feed-forward network runs before the attention inside windows; `paper_order=True` runs it behind.
        for part in (windowed, second_feedforward) if self.paper_order else (second_feedforward, windowed):
            x = x + part(x, train)
        return self.tap('block', x)

    torch_names = {
        'scalable_attention': '0',
        'first_feedforward': '1',
        'peg': '2',
        'second_feedforward': '3',
        'windowed_attention': '4',
    }


class ScalableViT(Backbone, kw_only=True):
    """ScalableViT (arXiv:2203.10790): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      num_classes: width of the logits.
      dim: width of a token in the first stage, doubled in each further one.
      depth: number of blocks of each stage.
      heads: attention heads, of each stage or of all.
      reduction_factor: stride of the convolution of keys and values in the first attention, of each stage or of all.
      window_size: height and width of a window of the second attention, of each stage or of all; must divide the
        stage's map; None is the whole map.
      iwsa_dim_key, iwsa_dim_value: widths of a head of the second attention, of each stage or of all.
      ssa_dim_key, ssa_dim_value: the same of the first.
      ff_expansion_factor: hidden width of the feed-forward networks over the stage's.
      channels: of the images.
      dropout: rate after each projection and on the attention maps.
      paper_order: the second feed-forward network of a block behind the second attention, not before it.

    Raises:
      ValueError: windows do not tile a stage's map, a setting for another number of stages, depth is no sequence,
        images of another layout.
    """

    num_classes: int
    dim: int
    depth: Sequence[int]
    heads: int | Sequence[int]
    reduction_factor: int | Sequence[int]
    window_size: int | Sequence[int | None] | None = None
    iwsa_dim_key: int | Sequence[int] = 32
    iwsa_dim_value: int | Sequence[int] = 32
    ssa_dim_key: int | Sequence[int] = 32
    ssa_dim_value: int | Sequence[int] = 32
    ff_expansion_factor: int = 4
    channels: int = 3
    dropout: float = 0.0
    paper_order: bool = False

    def setup(self) -> None:
        names = (
            'heads',
            'ssa_dim_key',
            'ssa_dim_value',
            'reduction_factor',
            'iwsa_dim_key',
            'iwsa_dim_value',
            'window_size',
        )
        stages = len(self.depth)
        settings = {name: per_stage(name, getattr(self, name), stages) for name in names}
        self.to_patches = Conv(self.dim, (7, 7), strides=4, padding=3, **self.precision)
        self.stage = [
            [
                ScalableBlock(
                    **{name: values[stage] for name, values in settings.items()},
                    expansion=self.ff_expansion_factor,
                    dropout=self.dropout,
                    first=block == 0,
                    paper_order=self.paper_order,
                    **self.precision,
                )
                for block in range(blocks)
            ]
            for stage, blocks in enumerate(self.depth)
        ]
        self.norm = [ChannelLayerNorm(**self.precision) for _ in range(stages - 1)]
        self.downsample = [
            Conv(self.dim * 2**stage, (3, 3), strides=2, padding=1, **self.precision) for stage in range(1, stages)
        ]
        self.head_norm = LayerNorm(**self.precision)
        self.mlp_head = Dense(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens, `[b h w c] -> [b h/4 w/4 dim]`."""
        check_images(images, self.channels)
        return self.tap('embedding', self.to_patches(images))

    def encode(self, x: Array, train: bool = False) -> Array:
        """All stages, `[b h w d] -> [b h' w' d']`."""
        for index, stage in enumerate(self.stage):
            for block in stage:
                x = block(x, train)
            if index < len(self.downsample):
                x = self.downsample[index](self.norm[index](x))
        return x

    def classify(self, x: Array, train: bool = False) -> Array:
        """Feature map to logits, `[b h w d] -> [b num_classes]`."""
        return self.mlp_head(self.head_norm(self.tap('to_latent', x).mean(axis=(1, 2))))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded feature map without classes."""
        x = self.encode(self.embed(images, train), train)
        return self.classify(x, train) if self.num_classes > 0 else x

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        return stage_grids(lengths, (4, *[2] * (len(self.depth) - 1)))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """An input that fits windows whose sizes are powers of two, for tracing."""
        return jax.ShapeDtypeStruct((1, 256, 256, self.channels), jnp.float32)

    torch_names = {
        'stage_{i}_{j}': 'layers.{i}.0.layers.{j}',
        'norm_{i}': 'layers.{i}.0.norm',
        'downsample_{i}': 'layers.{i}.1.conv',
        'head_norm': 'mlp_head.1',
        'mlp_head': 'mlp_head.2',
    }


CARD = ModelCard(
    ScalableViT,
    title='ScalableViT: Rethinking the Context-oriented Generalization of Vision Transformer',
    arxiv='2203.10790',
    takes='image [b h w c]',
    paper_size=dict(
        num_classes=1000,
        dim=64,
        heads=(2, 4, 8, 16),
        depth=(2, 2, 20, 2),
        ssa_dim_key=(40, 40, 40, 32),
        reduction_factor=(8, 4, 2, 1),
        window_size=(64, 32, None, None),
    ),
)
