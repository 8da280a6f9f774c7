"""An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, arXiv:2010.11929.

timm's `VisionTransformer`, with timm's names of arguments and weights: the network that the published ViT, DeiT,
AugReg, CLIP, SigLIP and DINOv2 checkpoints are of. Unlike vit-pytorch's ViT it has no norms around the patch
projection, biases on queries, keys and values, and an epsilon of 1e-6.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer, constant, normal, ones, truncated_normal, zeros

from vit_flax.blocks.attention import attend, merge_heads, split_heads, split_qkv
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import pair
from vit_flax.blocks.dropping import draw_patches, draw_paths, path_rates
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import patchify
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.positions import resize_position_embedding
from vit_flax.blocks.precision import add, in_float32, multiply, repeat
from vit_flax.blocks.torch_like import (
    Dense,
    LayerNorm,
    MeanSquareNorm,
    affine,
    gelu,
    gelu_tanh,
    matmul,
    silu,
    uniform_by_fan_in,
)
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import UnitAxes, kernel_op
from vit_flax.card import ModelCard
from vit_flax.weights.timm import sizes

Activation = Literal['gelu', 'gelu_tanh', 'quick_gelu', 'silu']
Norm = Literal['layer', 'rms']
Pooling = Literal['', 'token', 'avg', 'avgmax', 'max', 'map']

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'gelu': gelu,
    'gelu_tanh': gelu_tanh,
    'quick_gelu': in_float32(lambda x: x * jax.nn.sigmoid(1.702 * x)),
    'silu': silu,
}
NORMS = {'layer': LayerNorm, 'rms': MeanSquareNorm}

# Cut at 2 in absolute value and not at two deviations, which is not cut at all.
STANDARD = normal(0.02)
Linear = partial(Dense, kernel_init=STANDARD, bias_init=zeros)
# Gates start open: 1 plus next to nothing.
GATE = dict(kernel_init=normal(1e-6), bias_init=ones)


class PatchEmbed(Module):
    """Linear on each patch, `[b H W c] -> [b h w d]`, its kernel that of a convolution with the patch as stride."""

    patch_size: Sequence[int]
    dim: int
    use_bias: bool = True
    norm: Callable[..., nn.Module] | None = None

    def __call__(self, images: Array) -> Array:
        return self.embed(patchify(images, self.patch_size))

    @nn.compact
    def embed(self, patches: Array) -> Array:
        """Patches that are cut already, `[... p] -> [... d]`."""
        area = math.prod(self.patch_size)
        init = uniform_by_fan_in(patches.shape[-1])
        shape = (*self.patch_size, patches.shape[-1] // area, self.dim)
        kernel = self.param('kernel', init, shape, self.param_dtype)
        kernel = kernel.reshape(-1, self.dim)
        if self.use_bias:
            bias = self.param('bias', init, (self.dim,), self.param_dtype)
            x = affine(*self.promote(patches, kernel, bias))
        else:
            x, kernel = self.promote(patches, kernel)
            x = matmul(x, kernel)
        return x if self.norm is None else self.norm(name='norm')(x)

    torch_names = {'kernel': ('proj.weight', kernel_op(4)), 'bias': 'proj.bias'}


class Attention(Module):
    """Multi-head self-attention, `[b n d] -> [b n d]`.

    Attributes:
      norm: constructor of the norms.
      norms_heads: normalise queries and keys of each head.
      norms_output: normalise the heads' outputs together.
      scale: of the scores; None is the head width to the power -1/2.
      linear: constructor of the linear maps.
    """

    heads: int
    norm: Callable[..., nn.Module]
    qkv_bias: bool
    proj_bias: bool
    norms_heads: bool
    norms_output: bool
    scale: float | None
    map_dropout: float
    dropout: float
    linear: Callable[..., nn.Module] = Linear

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        qkv = self.linear(3 * dim, use_bias=self.qkv_bias, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        if self.norms_heads:
            q, k = self.norm(name='q_norm')(q), self.norm(name='k_norm')(k)
        scale = (dim // self.heads) ** -0.5 if self.scale is None else self.scale
        x = merge_heads(attend(self, q, k, v, scale=scale, dropout=self.map_dropout, train=train))
        if self.norms_output:
            x = self.norm(name='norm')(x)
        x = self.linear(dim, use_bias=self.proj_bias, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='output_dropout')(x, deterministic=not train)

    torch_names = {'to_qkv': 'qkv', 'to_out': 'proj'}


class Mlp(Module):
    """Linear, activation, Linear, `[... d] -> [... d]`.

    Attributes:
      kind: 'mlp'; or gated (arXiv:2002.05202), with a second linear map that multiplies the activation: 'swiglu' has
        it apart, 'swiglu_packed' behind the gate in one map of `hidden_dim` together, 'glu' before the gate.
      norm: constructor of a norm before the second Linear.
      linear, gate, contract: constructors of the linear maps, of the gate that stands apart, and of the last map, if it
        is another one.
    """

    hidden_dim: int
    act: str
    kind: str
    use_bias: bool
    dropout: float
    norm: Callable[..., nn.Module] | None
    gate: Callable[..., nn.Module] = partial(Linear, **GATE)
    linear: Callable[..., nn.Module] = Linear
    contract: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, act = x.shape[-1], ACTIVATIONS[self.act]
        settings = dict(use_bias=self.use_bias, **self.precision)
        linear = partial(self.linear, **settings)
        if self.kind == 'mlp':
            x = act(linear(self.hidden_dim, name='expand')(x))
        elif self.kind == 'swiglu':
            gate = self.gate(self.hidden_dim, **settings, name='gate')(x)
            x = act(gate) * linear(self.hidden_dim, name='value')(x)
        else:
            first, second = jnp.split(linear(self.hidden_dim, name='expand')(x), 2, axis=-1)
            x = first * act(second) if self.kind == 'glu' else act(first) * second
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        if self.norm is not None:
            x = self.norm(name='norm')(x)
        x = (self.contract or self.linear)(dim, **settings, name='contract')(x)
        return nn.Dropout(self.dropout, name='output_dropout')(x, deterministic=not train)

    torch_names = {'expand': 'fc1', 'gate': 'fc1_g', 'value': 'fc1_x', 'contract': 'fc2'}


class Block(Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)), `[b n d] -> [b n d]`.

    Attributes:
      attention, feedforward, norm: constructors.
      init_values: initial factor of each channel of a branch; None is without LayerScale.
    """

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    init_values: float | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False, paths: Array | None = None) -> Array:
        """Args: x `[b n d]`; paths: a factor of each branch for each image, `[2 b]`."""
        for index, (name, branch) in enumerate((('attention', self.attention), ('feedforward', self.feedforward))):
            y = branch(name=name)(self.norm(name=f'{name}_norm')(x), train)
            if self.init_values:
                scale = self.param(f'{name}_scale', constant(self.init_values), x.shape[-1:], self.param_dtype)
                y = multiply(*self.promote(y, scale))
            x = x + (y if paths is None else y * paths[index, :, None, None].astype(y.dtype))
        return self.tap('block', x)

    torch_names = {
        'attention_norm': 'norm1',
        'attention': 'attn',
        'attention_scale': 'ls1.gamma',
        'feedforward_norm': 'norm2',
        'feedforward': 'mlp',
        'feedforward_scale': 'ls2.gamma',
    }


def surviving_paths(
    module: nn.Module, batch: int, depth: int, rate: float, keep: Array | None, train: bool
) -> dict[str, Array]:
    """What a `Transformer` hands to such blocks: `paths` for `keep` as given, or drawn in training."""
    if keep is None and train and rate > 0:
        keep = draw_paths(module.make_rng('drop_path'), batch, rate, depth)
    return {} if keep is None else {'paths': keep / (1 - path_rates(rate, depth))[:, None, None]}


class AttentionPool(Module):
    """A learned query attends to the tokens, then a residual Mlp, `[b n d] -> [b d]` (arXiv:2106.04560)."""

    heads: int
    feedforward: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        start = truncated_normal(dim**-0.5, lower=-2, upper=2)
        latent = self.param('latent', start, (1, dim), self.param_dtype)
        (latent,) = self.promote(repeat(latent, 'n d -> b n d', b=x.shape[0]))
        linear = partial(Linear, **self.precision)
        q = split_heads(linear(dim, name='to_q')(latent), self.heads)
        k, v = (split_heads(t, self.heads) for t in jnp.split(linear(2 * dim, name='to_kv')(x), 2, axis=-1))
        x = merge_heads(attend(self, q, k, v, scale=(dim // self.heads) ** -0.5))
        x = linear(dim, name='to_out')(x)
        x = x + self.feedforward(name='feedforward')(self.norm(name='norm')(x), train)
        return x[:, 0]

    torch_names = {
        'latent': ('latent', UnitAxes((0,))),
        'to_q': 'q',
        'to_kv': 'kv',
        'to_out': 'proj',
        'feedforward': 'mlp',
    }


class PlainViT(Backbone, kw_only=True):
    """What timm's plain vision transformers have in common: images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      img_size: height and width in pixels, or one number for both; what is less than a patch is cut off.
      patch_size: height and width of a patch, likewise.
      in_chans: channels of the images.
      num_classes: width of the logits; 0 returns the pooled features instead.
      global_pool: what the head reads: 'token' the class token; 'avg', 'max' or 'avgmax', their mean, of the patches;
        'map' a query that attends to the patches; '' every token.
      embed_dim: width of a token.
      depth: number of blocks.
      num_heads: attention heads in each, which share the width.
      mlp_ratio: hidden width of the feed-forward networks over `embed_dim`.
      qkv_bias: a bias on queries, keys and values.
      init_values: initial factor of LayerScale (arXiv:2103.17239); None is without it.
      class_token: prepend a learned token.
      no_embed_class: positions of the patches alone, none of class and register tokens.
      dynamic_img_size: take images of any size, moving the positions to their grid (bicubic, with antialiasing).
      dynamic_img_pad: fill up images that patches do not tile with zeros, on the right and below.
      drop_rate: dropout on the pooled features.
      pos_drop_rate: on the embedded tokens.
      patch_drop_rate: share of the patches that each image loses in training (arXiv:2212.00794).
      proj_drop_rate: after each projection.
      attn_drop_rate: on the attention maps.
      drop_path_rate: at which the last block's branches are dropped, for each image; the first's never are
        (arXiv:1603.09382).
      norm: 'layer' or 'rms'.
      norm_eps: added to the variance or the mean square.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: images of another size, heads do not divide the width, or pooling and tokens do not go together.
    """

    img_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 16
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: Pooling = 'token'
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    init_values: float | None = None
    class_token: bool = True
    no_embed_class: bool = False
    dynamic_img_size: bool = False
    dynamic_img_pad: bool = False
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm: Norm = 'layer'
    norm_eps: float = 1e-6
    scan: bool = False
    remat: Remat = False

    can_embed_patches: ClassVar[bool] = True
    can_drop_tokens: ClassVar[bool] = True
    pools_without_classes: ClassVar[bool] = True

    @property
    def input_kernel(self) -> str:
        return 'patch_embed/kernel'

    def setup(self) -> None:
        self._check()
        norm = partial(NORMS[self.norm], epsilon=self.norm_eps, **self.precision)
        self.patch_embed = self.make_patch_embed(norm)
        for name, (count, start) in self.learned_tokens.items():
            setattr(self, name, self.param(name, start, (count, self.embed_dim), self.param_dtype))
        if self.has_positions:
            shape = self.num_positions, self.embed_dim
            self.positions = self.param('pos_embed', STANDARD, shape, self.param_dtype)
        self.position_dropout = nn.Dropout(self.pos_drop_rate)
        if self.norms_embedding:
            self.norm_pre = norm()
        self.transformer = Transformer(self.depth, self.make_block(norm), scan=self.scan, remat=self.remat)
        if self.norms_tokens:
            self.last_norm = norm()
        if self.global_pool == 'map':
            self.attn_pool = self.make_attention_pool(norm)
        if self.norms_pooled:
            self.pooled_norm = norm()
        self.head_dropout = nn.Dropout(self.drop_rate)
        if self.num_classes:
            self.classifier = self.make_head()

    def _check(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ValueError(f'num_heads={self.num_heads} must divide embed_dim={self.embed_dim}')
        if self.global_pool == 'token' and not self.class_token:
            raise ValueError("global_pool='token' needs class_token=True")

    # What a network is made of, and how.

    def make_patch_embed(self, norm: Callable[..., nn.Module]) -> nn.Module:
        """What maps images to patches, `[b H W c] -> [b h w d]`."""
        return PatchEmbed(self.grid.patch, self.embed_dim, use_bias=not self.norms_embedding, **self.precision)

    def make_block(self, norm: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """Constructor of a block."""
        raise NotImplementedError

    def make_attention_pool(self, norm: Callable[..., nn.Module]) -> nn.Module:
        """What `global_pool='map'` pools with."""
        mlp = partial(Mlp, int(self.embed_dim * self.mlp_ratio), 'gelu', 'mlp', True, 0.0, None, **self.precision)
        return AttentionPool(self.num_heads, mlp, norm, **self.precision)

    def make_head(self) -> nn.Module:
        """Features to logits."""
        return Linear(self.num_classes, **self.precision)

    @property
    def learned_tokens(self) -> dict[str, tuple[int, Initializer]]:
        """Of the tokens before the patches, in their order, the number and how they start, by parameter."""
        return {'cls_token': (1, STANDARD)} if self.class_token else {}

    @property
    def has_positions(self) -> bool:
        """A table of positions that is added to the tokens."""
        raise NotImplementedError

    @property
    def norms_embedding(self) -> bool:
        """A norm before the first block; the patch projection has no bias then."""
        return False

    @property
    def norms_tokens(self) -> bool:
        """A norm after the last block."""
        return not self.norms_pooled

    @property
    def norms_pooled(self) -> bool:
        """A norm after the pooling."""
        raise NotImplementedError

    @property
    def pools_prefix(self) -> bool:
        """Whether the tokens before the patches are pooled with them."""
        return False

    def fitted(self, images: Array) -> Array:
        """Images cut off or filled up so that patches tile them."""
        if images.shape[1:3] == pair(self.img_size):  # what is less than a patch is cut off
            return images[:, : self.grid.lengths[0], : self.grid.lengths[1]]
        if self.dynamic_img_pad:
            short = [-length % patch for length, patch in zip(images.shape[1:3], self.grid.patch, strict=True)]
            return jnp.pad(images, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)))
        return images

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, class and register tokens first, `[b h w c] -> [b n d]`."""
        self.grid.check(images)
        images = self.fitted(images)
        x = self.patch_embed(images)
        shape = x.shape[1:3]
        if shape != self.grid.shape and not self.dynamic_img_size:
            raise ValueError(
                f'images of {images.shape[1]} x {images.shape[2]} have a grid of {shape} patches, '
                f'img_size={self.img_size} one of {self.grid.shape}: dynamic_img_size=True takes them'
            )
        x = rearrange(x, 'b h w d -> b (h w) d')
        if self.has_positions:
            x = self.add(x, self.patch_positions(shape))
        prefix = repeat(self.prefix_tokens(), 'm d -> b m d', b=x.shape[0])
        prefix, x = self.promote(prefix, x)
        x = self.position_dropout(jnp.concatenate([prefix, x], axis=1), deterministic=not train)
        return self.tap('embedding', self.drop_patches(x, train))

    def drop_patches(self, x: Array, train: bool = False) -> Array:
        """Tokens without the patches that training leaves out, `[b n d] -> [b n' d]`."""
        if not train or self.patch_drop_rate == 0:
            return x
        first, patches = self.num_prefix_tokens, x.shape[1] - self.num_prefix_tokens
        kept = draw_patches(self.make_rng('mask'), x.shape[0], patches, self.patch_drop_rate)
        kept = jnp.take_along_axis(x[:, first:], kept[..., None], axis=1)
        return jnp.concatenate([x[:, :first], kept], axis=1)

    def add(self, x: Array, positions: Array) -> Array:
        """Positions added to the tokens of every image, in the model's dtype."""
        x, positions = self.promote(x, positions)
        return add(x, positions)

    def encode(self, tokens: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """The blocks, between two norms where there are, `[b n d] -> [b n d]`.

        Args:
          tokens: `[b n d]`.
          train: training mode.
          keep_paths: bool `[depth 2 b]`, which branches run for which image, in place of `draw_paths` from the rng
            `drop_path`.
        """
        x = self.norm_pre(tokens) if self.norms_embedding else tokens
        return self.run_blocks(x, train, keep_paths)

    def run_blocks(self, x: Array, train: bool, keep_paths: Array | None, *context: Any, **per_layer: Any) -> Array:
        """The blocks and the norm after them; what else a block gets, see `Transformer`."""
        per_layer |= surviving_paths(self, x.shape[0], self.depth, self.drop_path_rate, keep_paths, train)
        x = self.transformer(x, *context, train=train, **per_layer)
        return self.last_norm(x) if hasattr(self, 'last_norm') else x

    def forward_features(self, images: Array, train: bool = False) -> Array:
        """Images to encoded tokens, `[b h w c] -> [b n d]`."""
        return self.encode(self.embed(images, train), train)

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        """Encoded tokens to the features that the head reads, `[b n d] -> [b d]`."""
        if self.global_pool == '':
            return tokens
        if self.global_pool == 'token':
            return tokens[:, 0]
        patches = tokens if self.pools_prefix else tokens[:, self.num_prefix_tokens :]
        if self.global_pool == 'map':
            return self.attn_pool(patches, train)
        pooled = []
        if 'avg' in self.global_pool:
            pooled.append(patches.mean(axis=1))
        if 'max' in self.global_pool:
            # not `max`: its gradient compares, and is NaN where the compiler has computed the two sides differently
            index = patches.argmax(axis=1, keepdims=True)
            pooled.append(jnp.take_along_axis(patches, index, axis=1)[:, 0])
        return pooled[0] if len(pooled) == 1 else (pooled[0] + pooled[1]) / 2

    def classify(self, tokens: Array, train: bool = False) -> Any:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        x = self.pool_tokens(tokens, train)
        x = self.pooled_norm(x) if self.norms_pooled else x
        x = self.tap('to_latent', self.head_dropout(self.represent(x), deterministic=not train))
        return self.classifier(x) if self.num_classes else x

    def represent(self, x: Array) -> Array:
        """Pooled features to those of the head."""
        return x

    def __call__(self, images: Array, train: bool = False) -> Any:
        """Images to logits, `[b h w c] -> [b num_classes]`; to pooled features `[b d]` without classes."""
        return self.classify(self.forward_features(images, train), train)

    # What objectives use that mask patches (see `vit_flax.objectives.encoder`).

    def embed_tokens(self, patches: Array) -> Array:
        """The values of patches to tokens without positions, `[b n p] -> [b n d]`."""
        return self.patch_embed.embed(patches)

    def patch_positions(self, shape: Sequence[int]) -> Array:
        """Positions of a grid of patches alone, `[n d]`; zeros where blocks alone know them."""
        if not self.has_positions:
            return jnp.zeros((math.prod(shape), self.embed_dim), self.param_dtype)
        table = self.positions[self.num_prefix_positions :]
        if tuple(shape) == self.grid.shape:
            return table
        return resize_position_embedding(table, self.grid.shape, shape, antialias=True)

    def prefix_tokens(self) -> Array:
        """The tokens before the patches with their positions, `[m d]`."""
        tokens = [getattr(self, name) for name in self.learned_tokens]
        if not tokens:
            return jnp.zeros((0, self.embed_dim), self.param_dtype)
        together = jnp.concatenate(tokens)
        return together + self.positions[: len(together)] if self.num_prefix_positions else together

    # What the model declares of itself.

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.embed_dim

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.in_chans

    @property
    def grid(self) -> Grid:
        lengths, patch = pair(self.img_size, 'img_size'), pair(self.patch_size, 'patch_size')
        lengths = lengths[0] // patch[0] * patch[0], lengths[1] // patch[1] * patch[1]
        if not all(lengths):
            raise ValueError(f'img_size={self.img_size} holds no patch of patch_size={self.patch_size}')
        return dataclasses.replace(image_grid(lengths, patch, self.in_chans), size=f'img_size={self.img_size}')

    @property
    def head(self) -> tuple[str, ...]:
        return ('classifier',) if self.num_classes else ()

    @property
    def num_prefix_tokens(self) -> int:
        return sum(count for count, _ in self.learned_tokens.values())

    @property
    def num_prefix_positions(self) -> int:
        """Rows of the position table before those of the patches."""
        return 0 if self.no_embed_class or not self.has_positions else self.num_prefix_tokens

    @property
    def num_positions(self) -> int:
        """Rows of the position table."""
        return self.num_prefix_positions + self.grid.num_patches if self.has_positions else 0

    def position_tables(self) -> dict[str, PositionTable]:
        if not self.has_positions:
            return {}
        return {'pos_embed': PositionTable(self.grid.shape, self.num_prefix_positions)}

    torch_source = 'timm'
    torch_names = {
        'cls_token': ('cls_token', UnitAxes((0,))),
        'reg_token': ('reg_token', UnitAxes((0,))),
        'pos_embed': ('pos_embed', UnitAxes((0,))),
        'transformer/block_{i}': 'blocks.{i}',
        'last_norm': 'norm',
        'pooled_norm': 'fc_norm',
        'classifier': 'head',
    }


class VisionTransformer(PlainViT, kw_only=True):
    """Vision Transformer as published (arXiv:2010.11929): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      qk_norm: normalise queries and keys of each head.
      scale_attn_norm: a norm before the output projection of attention (arXiv:2210.06423).
      scale_mlp_norm: a norm before the second linear map of the feed-forward network, likewise.
      proj_bias: a bias on the output projection of attention and in the feed-forward network.
      qk_scale: factor of the scores; None is the head width to the power -1/2.
      pos_embed: 'learn', or 'none' for tokens without positions.
      reg_tokens: number of learned register tokens (arXiv:2309.16588).
      distilled: a second token and head that learn from a teacher (arXiv:2012.12877): the mean of both heads' logits
        in evaluation, both, as a tuple, in training.
      pre_norm: a norm before the first block; the patch projection has no bias then, as in CLIP (arXiv:2103.00020).
      final_norm: a norm after the last block.
      fc_norm: have it after the pooling instead; None does for 'avg', 'max' and 'avgmax'.
      pool_include_prefix: pool class and register tokens with the patches.
      representation_size: width of a linear map and tanh before the head; None is without them.
      act: of the feed-forward networks: 'gelu', 'gelu_tanh', 'quick_gelu' (x sigmoid(1.702 x)) or 'silu'.
      embed_norm: a norm on each embedded patch, of the same kind.
      mlp: 'mlp', or gated by `act`: 'glu', 'swiglu_packed' or 'swiglu', which differ in where the gate is stored.

    Raises:
      ValueError: images of another size, heads do not divide the width, or pooling, tokens and heads do not go
        together.
    """

    global_pool: Pooling = 'token'
    qk_norm: bool = False
    scale_attn_norm: bool = False
    scale_mlp_norm: bool = False
    proj_bias: bool = True
    qk_scale: float | None = None
    pos_embed: Literal['learn', 'none'] = 'learn'
    reg_tokens: int = 0
    distilled: bool = False
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool | None = None
    pool_include_prefix: bool = False
    representation_size: int | None = None
    act: Activation = 'gelu'
    embed_norm: bool = False
    mlp: Literal['mlp', 'glu', 'swiglu_packed', 'swiglu'] = 'mlp'

    def setup(self) -> None:
        super().setup()
        if self.representation_size:
            self.pre_logits = Linear(self.representation_size, **self.precision)
        if self.num_classes and self.distilled:
            self.distilled_classifier = self.make_head()

    def _check(self) -> None:
        super()._check()
        if self.distilled and (self.global_pool != 'token' or self.reg_tokens or self.representation_size):
            raise ValueError(
                "distilled=True reads its two tokens: it needs global_pool='token', reg_tokens=0 and no "
                'representation_size'
            )
        if self.mlp in ('glu', 'swiglu_packed') and int(self.embed_dim * self.mlp_ratio) % 2:
            raise ValueError(
                f'mlp={self.mlp!r} halves its hidden width: embed_dim={self.embed_dim} x mlp_ratio={self.mlp_ratio} '
                'must be even'
            )

    def make_patch_embed(self, norm: Callable[..., nn.Module]) -> nn.Module:
        return PatchEmbed(
            self.grid.patch,
            self.embed_dim,
            use_bias=not self.pre_norm,
            norm=norm if self.embed_norm else None,
            **self.precision,
        )

    def make_feedforward(self, norm: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """Constructor of the feed-forward network of a block."""
        return partial(
            Mlp,
            int(self.embed_dim * self.mlp_ratio),
            self.act,
            self.mlp,
            self.proj_bias,
            self.proj_drop_rate,
            norm if self.scale_mlp_norm else None,
            **self.precision,
        )

    def make_block(self, norm: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        attention = partial(
            Attention,
            self.num_heads,
            norm,
            qkv_bias=self.qkv_bias,
            proj_bias=self.proj_bias,
            norms_heads=self.qk_norm,
            norms_output=self.scale_attn_norm,
            scale=self.qk_scale,
            map_dropout=self.attn_drop_rate,
            dropout=self.proj_drop_rate,
            **self.precision,
        )
        return partial(Block, attention, self.make_feedforward(norm), norm, self.init_values, **self.precision)

    def make_attention_pool(self, norm: Callable[..., nn.Module]) -> nn.Module:
        mlp = partial(Mlp, int(self.embed_dim * self.mlp_ratio), self.act, 'mlp', True, 0.0, None, **self.precision)
        return AttentionPool(self.num_heads, mlp, norm, **self.precision)

    @property
    def learned_tokens(self) -> dict[str, tuple[int, Initializer]]:
        tokens = {
            'cls_token': (int(self.class_token), normal(1e-6)),
            'dist_token': (int(self.distilled), STANDARD),
            'reg_token': (self.reg_tokens, normal(1e-6)),
        }
        return {name: (count, start) for name, (count, start) in tokens.items() if count}

    @property
    def has_positions(self) -> bool:
        return self.pos_embed == 'learn'

    @property
    def norms_embedding(self) -> bool:
        return self.pre_norm

    @property
    def norms_tokens(self) -> bool:
        return self.final_norm and not self._after_pooling

    @property
    def norms_pooled(self) -> bool:
        return self.final_norm and self._after_pooling

    @property
    def _after_pooling(self) -> bool:
        return self.global_pool in ('avg', 'avgmax', 'max') if self.fc_norm is None else self.fc_norm

    @property
    def pools_prefix(self) -> bool:
        return self.pool_include_prefix

    def patch_positions(self, shape: Sequence[int]) -> Array:
        if not self.has_positions:
            raise ValueError("pos_embed='none' has no position table")
        return super().patch_positions(shape)

    def represent(self, x: Array) -> Array:
        return in_float32(jnp.tanh)(self.pre_logits(x)) if self.representation_size else x

    def classify(self, tokens: Array, train: bool = False) -> Any:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`; of both heads with `distilled` in training."""
        if not self.distilled:
            return super().classify(tokens, train)
        cls, distilled = (self.head_dropout(tokens[:, i], deterministic=not train) for i in (0, 1))
        self.tap('to_latent', (cls + distilled) / 2)
        if self.num_classes:
            cls, distilled = self.classifier(cls), self.distilled_classifier(distilled)
        return (cls, distilled) if train else (cls + distilled) / 2

    @property
    def head(self) -> tuple[str, ...]:
        return (*super().head, 'distilled_classifier') if self.num_classes and self.distilled else super().head

    torch_names = {
        'dist_token': ('dist_token', UnitAxes((0,))),
        'pre_logits': 'pre_logits.fc',
        'distilled_classifier': 'head_dist',
    }


CARD = ModelCard(
    VisionTransformer,
    title='An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, as published',
    arxiv='2010.11929',
    takes='image [b h w c]',
    paper_size={},
    presets=sizes('vision_transformer'),
)
