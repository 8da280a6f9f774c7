"""LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference, arXiv:2104.01136, as published.

timm's `Levit`, with timm's names of arguments and weights, the network of the authors' checkpoints. Unlike
vit-pytorch's LeViT it has BatchNorm behind every linear map, also of the convolutions at the beginning, of the
feed-forward networks and before the heads; hard swish everywhere; and values four times as wide as keys between two
stages.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import ones, zeros

from vit_flax.blocks.attention import attend
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images, pair
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.stages import per_stage
from vit_flax.blocks.torch_like import BatchNorm, Conv, Dense, gelu, hard_swish, silu
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import POINTWISE, Permute
from vit_flax.card import ModelCard
from vit_flax.models.levit import distances
from vit_flax.models.vision_transformer import Linear
from vit_flax.weights.timm import sizes

Activation = Literal['hard_swish', 'silu', 'gelu']

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'hard_swish': hard_swish, 'silu': silu, 'gelu': gelu}


class LinearNorm(Module):
    """Linear and BatchNorm, `[... c] -> [... features]`.

    Attributes:
      use_conv: the file stores the kernel as that of a 1x1 convolution.
      starts_at_zero: the scale of the norm does.
    """

    features: int
    use_conv: bool
    starts_at_zero: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = Dense(self.features, use_bias=False, **self.precision, name='linear')(x)
        scale = zeros if self.starts_at_zero else ones
        return BatchNorm(scale_init=scale, **self.precision, name='norm')(x, train)

    def torch_rows(self) -> dict[str, Any]:
        return {'linear': ('linear', {'kernel': ('weight', POINTWISE)})} if self.use_conv else {}

    torch_names = {'norm': 'bn'}


class Stem(Module):
    """3x3 convolutions of stride 2 and BatchNorm, `act` between them, `[b H W c] -> [b h w d]`."""

    dim: int
    layers: int
    act: str

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i in range(self.layers):
            width = self.dim // 2 ** (self.layers - 1 - i)
            conv = Conv(width, (3, 3), strides=2, padding=1, use_bias=False, **self.precision, name=f'conv_{i}')
            x = BatchNorm(**self.precision, name=f'norm_{i}')(conv(x), train)
            x = ACTIVATIONS[self.act](x) if i < self.layers - 1 else x
        return x

    torch_names = {'conv_{i}': 'conv{i+1}.linear', 'norm_{i}': 'conv{i+1}.bn'}


class Attention(Module):
    """Attention over a grid of positions, `[b h w d] -> [b h' w' dim_out]`; with a stride of fewer queries.

    Attributes:
      grid: rows and columns of the input.
      dim_out: width of the output.
      heads, dim_key, dim_value: attention heads, and the widths of a head's keys and values.
      act: activation before the output's linear map.
      use_conv: see `LinearNorm`.
      stride: distance between two queries along either axis.
    """

    grid: tuple[int, int]
    dim_out: int
    heads: int
    dim_key: int
    dim_value: int
    act: str
    use_conv: bool
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        queries = x[:, :: self.stride, :: self.stride]
        height = queries.shape[1]

        def project(x: Array, *widths: int, name: str) -> list[Array]:
            x = LinearNorm(self.heads * sum(widths), self.use_conv, **self.precision, name=name)(x, train)
            x = rearrange(x, 'b h w (e k) -> b e (h w) k', e=self.heads)
            ends = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
            return jnp.split(x, ends, axis=-1)

        if self.stride == 1:
            q, k, v = project(x, self.dim_key, self.dim_key, self.dim_value, name='to_qkv')
        else:
            k, v = project(x, self.dim_key, self.dim_value, name='to_kv')
            (q,) = project(queries, self.dim_key, name='to_q')
        table = self.param('biases', zeros, (self.grid[0] * self.grid[1], self.heads), self.param_dtype)
        bias = rearrange(to_float32(table)[distances(self.grid, self.stride)], 'n m e -> e n m')
        x = attend(self, q, k, v, scale=self.dim_key**-0.5, bias=bias, train=train)
        x = ACTIVATIONS[self.act](rearrange(x, 'b e (h w) k -> b h w (e k)', h=height))
        is_residual = self.stride == 1
        to_out = LinearNorm(self.dim_out, self.use_conv, starts_at_zero=is_residual, **self.precision, name='to_out')
        return to_out(x, train)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'biases': PositionTable(self.grid, offsets=True)}

    torch_names = {
        'to_qkv': 'qkv',
        'to_kv': 'kv',
        'to_q': 'q.ln',
        'to_out': 'proj.ln',
        'biases': ('attention_biases', Permute((1, 0))),
    }


class FeedForward(Module):
    """Linear, BatchNorm, `act`, Linear, BatchNorm, `[b h w d] -> [b h w d]`."""

    hidden_dim: int
    act: str
    use_conv: bool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, settings = x.shape[-1], dict(use_conv=self.use_conv, **self.precision)
        x = ACTIVATIONS[self.act](LinearNorm(self.hidden_dim, **settings, name='expand')(x, train))
        return LinearNorm(dim, starts_at_zero=True, **settings, name='contract')(x, train)

    torch_names = {'expand': 'ln1', 'contract': 'ln2'}


class Block(Module):
    """x + attention(x), then x + feedforward(x), `[b h w d] -> [b h w d]`."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, train: bool = False, paths: Array | None = None) -> Array:
        """Args: x `[b h w d]`; paths: a factor of each branch for each image, `[2 b]`."""
        for index, (name, branch) in enumerate((('attention', self.attention), ('feedforward', self.feedforward))):
            x = x + scaled(branch(name=name)(x, train), None if paths is None else paths[index])
        return self.tap('block', x)

    torch_names = {'attention': 'attn', 'feedforward': 'mlp'}


class Downsample(Module):
    """Attention to a grid of half the height and width, then x + feedforward(x), `[b h w d] -> [b h' w' f]`."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, train: bool = False, path: Array | None = None) -> Array:
        """Args: x `[b h w d]`; path: a factor of the second branch for each image, `[b]`."""
        x = self.attention(name='attention')(x, train)
        return self.tap('block', x + scaled(self.feedforward(name='feedforward')(x, train), path))

    torch_names = {'attention': 'attn_downsample', 'feedforward': 'mlp'}


def scaled(y: Array, path: Array | None) -> Array:
    """A branch `[b h w d]` times a factor for each image, `[b]`."""
    return y if path is None else y * path[:, None, None, None].astype(y.dtype)


class Head(Module):
    """BatchNorm, Dropout, Linear, `[b d] -> [b num_classes]`."""

    num_classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = BatchNorm(**self.precision, name='norm')(x, train)
        x = nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)
        return Linear(self.num_classes, **self.precision, name='linear')(x)

    torch_names = {'norm': 'bn'}


class Levit(Backbone, kw_only=True):
    """LeViT as published (arXiv:2104.01136): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      img_size: height and width in pixels, or one number for both; multiples of the stem's stride.
      in_chans: channels of the images.
      num_classes: width of the logits; 0 returns the pooled features instead.
      embed_dim: width of a token in each stage.
      key_dim: width of the queries and keys of a head.
      depth: number of blocks in each stage.
      num_heads: attention heads in each stage, or one number for all.
      attn_ratio: width of a head's values over that of its keys, likewise.
      mlp_ratio: hidden width of the feed-forward networks over the width of a token, likewise.
      stem_type: 's16' or 's8': how much the convolutions reduce height and width.
      act_layer: activation, 'hard_swish', 'silu' or 'gelu'.
      attn_act_layer: that of attention; None is the same.
      use_conv: linear maps are stored as 1x1 convolutions.
      global_pool: 'avg' classifies the mean of the last grid; '' every position.
      distilled: a second head that learns from a teacher: the mean of both heads' logits in evaluation, both, as a
        tuple, in training.
      drop_rate: dropout before the heads.
      drop_path_rate: at which branches are dropped, for each image.
      scan: compile one block for all layers of a stage, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: an image size that the stem does not divide, settings that are not one for each stage, keys that do
        not divide the width before a smaller grid, or images of another size.
    """

    img_size: int | Sequence[int] = 224
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: Sequence[int] = (192,)
    key_dim: int = 64
    depth: Sequence[int] = (12,)
    num_heads: int | Sequence[int] = (3,)
    attn_ratio: float | Sequence[float] = 2.0
    mlp_ratio: float | Sequence[float] = 2.0
    stem_type: Literal['s16', 's8'] = 's16'
    act_layer: Activation = 'hard_swish'
    attn_act_layer: Activation | None = None
    use_conv: bool = False
    global_pool: Literal['', 'avg'] = 'avg'
    distilled: bool = False
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    scan: bool = False
    remat: Remat = False

    pools_without_classes: ClassVar[bool] = True

    @property
    def input_kernel(self) -> str:
        return 'stem/conv_0/kernel'

    def setup(self) -> None:
        dims, stages = tuple(self.embed_dim), len(self.embed_dim)
        depths = per_stage('depth', tuple(self.depth), stages)
        heads, attn_ratios, mlp_ratios = (
            per_stage(name, getattr(self, name), stages) for name in ('num_heads', 'attn_ratio', 'mlp_ratio')
        )
        if dims[0] % (self.stride // 2):
            raise ValueError(
                f'embed_dim={dims}: the stem of stem_type={self.stem_type!r} doubles its width up to the first, which '
                f'must be a multiple of {self.stride // 2}'
            )
        attn_act = self.attn_act_layer or self.act_layer

        def attention(grid: Any, dim: int, heads: int, ratio: float, stride: int = 1) -> Any:
            return partial(
                Attention,
                grid,
                dim,
                heads,
                self.key_dim,
                int(ratio * self.key_dim),
                attn_act,
                self.use_conv,
                stride,
                **self.precision,
            )

        def feedforward(dim: int, ratio: float) -> Any:
            return partial(FeedForward, int(dim * ratio), self.act_layer, self.use_conv, **self.precision)

        self.stem = Stem(dims[0], self.stride.bit_length() - 1, self.act_layer, **self.precision)
        grids = [grid.shape for grid in stage_grids(self.lengths, (self.stride, *[2] * (stages - 1)))]
        stage, downsample = [], []
        for i, dim in enumerate(dims):
            if i:
                if dims[i - 1] % self.key_dim:
                    raise ValueError(f'key_dim={self.key_dim} must divide embed_dim={dims} but for the last')
                smaller = attention(grids[i - 1], dim, dims[i - 1] // self.key_dim, 4.0, stride=2)
                downsample.append(Downsample(smaller, feedforward(dim, 2.0), **self.precision))
            block = partial(
                Block,
                attention(grids[i], dim, heads[i], attn_ratios[i]),
                feedforward(dim, mlp_ratios[i]),
                **self.precision,
            )
            stage.append(Transformer(depths[i], block, scan=self.scan, remat=self.remat))
        self.stage, self.downsample = stage, downsample
        if self.num_classes:
            self.classifier = Head(self.num_classes, self.drop_rate, **self.precision)
            if self.distilled:
                self.distilled_classifier = Head(self.num_classes, self.drop_rate, **self.precision)

    @property
    def stride(self) -> int:
        """Of the stem."""
        return {'s16': 16, 's8': 8}[self.stem_type]

    @property
    def lengths(self) -> tuple[int, int]:
        """Height and width of the images."""
        height, width = pair(self.img_size, 'img_size')
        if height % self.stride or width % self.stride or not height * width:
            raise ValueError(f'img_size={(height, width)} must be multiples of {self.stride}')
        return height, width

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens, `[b H W c] -> [b h w d]`."""
        check_images(images, self.in_chans)
        if images.shape[1:3] != self.lengths:
            raise ValueError(
                f'images of {images.shape[1]} x {images.shape[2]} are not of img_size={self.img_size}: the position '
                'biases belong to one grid'
            )
        return self.tap('embedding', self.stem(images, train))

    def encode(self, x: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """The stages, `[b h w d] -> [b h' w' f]`.

        Args:
          x: `[b h w d]`.
          train: training mode.
          keep_paths: bool `[branches b]`, which branches run for which image, in the order of depth, two of each block
            and one between two stages; drawn from the rng `drop_path` at the rate `drop_path_rate` if left out.
        """
        rate = self.drop_path_rate
        if keep_paths is None and train and rate > 0:
            branches = 2 * sum(self.depth) + len(self.downsample)
            keep_paths = jax.random.uniform(self.make_rng('drop_path'), (branches, x.shape[0])) >= rate
        factors = None if keep_paths is None else keep_paths / (1 - rate)
        done = 0
        for i, stage in enumerate(self.stage):
            if i:
                x = self.downsample[i - 1](x, train, None if factors is None else factors[done])
                done += 1
            rows: dict[str, Any] = {}
            if factors is not None:
                here = factors[done : done + 2 * self.depth[i]]
                rows = {'paths': here.reshape(self.depth[i], 2, -1)}
                done += 2 * self.depth[i]
            x = stage(x, train=train, **rows)
        return x

    def classify(self, x: Array, train: bool = False) -> Any:
        """Feature map to logits, `[b h w d] -> [b num_classes]`; of both heads with `distilled` in training."""
        x = self.tap('to_latent', x.mean(axis=(1, 2)) if self.global_pool else rearrange(x, 'b h w d -> b (h w) d'))
        if not self.distilled:
            return self.classifier(x, train) if self.num_classes else x
        both = (self.classifier(x, train), self.distilled_classifier(x, train)) if self.num_classes else (x, x)
        return both if train else (both[0] + both[1]) / 2

    def forward_features(self, images: Array, train: bool = False) -> Array:
        """Images to the last feature map, `[b H W c] -> [b h w d]`."""
        return self.encode(self.embed(images, train), train)

    def __call__(self, images: Array, train: bool = False) -> Any:
        """Images to logits, `[b h w c] -> [b num_classes]`; to pooled features `[b d]` without classes."""
        return self.classify(self.forward_features(images, train), train)

    @property
    def head(self) -> tuple[str, ...]:
        if not self.num_classes:
            return ()
        linear = 'classifier/linear', 'distilled_classifier/linear'
        return linear if self.distilled else linear[:1]

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        return stage_grids(lengths, (self.stride, *[2] * (len(self.embed_dim) - 1)))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *self.lengths, self.in_chans), jnp.float32)

    torch_source = 'timm'
    torch_names = {
        'stage_{i}/block_{j}': 'stages.{i}.blocks.{j}',
        'downsample_{i}': 'stages.{i+1}.downsample',
        'classifier': 'head',
        'distilled_classifier': 'head_dist',
    }


CARD = ModelCard(
    Levit,
    title="LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference, as published",
    arxiv='2104.01136',
    takes='image [b h w c]',
    paper_size=dict(embed_dim=(256, 384, 512), key_dim=32, num_heads=(4, 6, 8), depth=(4, 4, 4), distilled=True),
    presets=sizes('levit_published'),
)
