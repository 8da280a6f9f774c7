"""JetViT: Efficient High-Resolution Vision Transformer with Post-Training Attention Search, arXiv:2605.26636.

vit-pytorch's `jet_vit`: a ViT without class token whose blocks attend in one of three ways: over all
patches, within windows, or linearly in their number, with a depthwise convolution whose kernel each
image makes for itself. All three have weights in every block, so that a search may choose among them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import Attention, attend, merge_heads, split_qkv
from vit_flax.blocks.checks import check_choice, check_divisible
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import einsum_float32, to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm, silu
from vit_flax.blocks.windows import RelativePositionBias, from_windows, to_windows
from vit_flax.card import ModelCard
from vit_flax.models.vit import ViTBase

# Upstream's names of the three kinds of attention, and ours of their modules.
KINDS = {'WA': 'window', 'LA': 'linear', 'FA': 'full'}


def draw_attention_choices(rng: Array, attn_layers: Sequence[str | Sequence[str]]) -> Array:
    """The kind of attention of each block, int `[depth]`: an index into its tuple, 0 for a single one."""
    options = [1 if isinstance(kinds, str) else len(kinds) for kinds in attn_layers]
    return jax.random.randint(rng, (len(options),), 0, jnp.array(options))


class FullAttention(Module):
    """Self-attention of all patches, `[b h w d] -> [b h w d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        rows = x.shape[1]
        module = Attention(self.heads, self.dim_head, self.dropout, **self.precision, name='attention')
        x = module(rearrange(x, 'b h w d -> b (h w) d'), train=train)
        return rearrange(x, 'b (h w) d -> b h w d', h=rows)

    torch_names = {'attention': ''}


class WindowAttention(Module):
    """Self-attention within windows with a bias for each relative position, `[b h w d] -> [b h w d]`."""

    size: int
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        _, height, width, dim = x.shape
        # upstream: attention within windows ignores `heads`: it has as many as dim_head fits into dim.
        heads = dim // self.dim_head
        x = to_windows(LayerNorm(**self.precision, name='norm')(x), self.size)
        q, k, v = split_qkv(Dense(3 * dim, use_bias=False, **self.precision, name='to_qkv')(x), heads)
        bias = RelativePositionBias(self.size, heads, **self.precision, name='rel_pos_bias')()
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, bias=bias, dropout=self.dropout, train=train)
        x = Dense(dim, use_bias=False, **self.precision, name='to_out')(merge_heads(x))
        x = nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)
        return from_windows(x, self.size, (height // self.size, width // self.size))

    torch_names = {'to_out': 'to_out.0'}


class DynamicConv(Module):
    """Depthwise 3x3 convolution whose kernel is made of the image's average, `[b h w c] -> [b h w c]`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, height, width, channels = x.shape
        hidden = silu(Dense(channels // 4, **self.precision, name='squeeze')(x.mean(axis=(1, 2))))
        kernels = Dense(9 * channels, **self.precision, name='expand')(hidden)
        kernels = rearrange(kernels, 'b (c p q) -> p q b 1 1 c', p=3, q=3)
        # each image has its own kernel: shifted multiply-adds, which fuse
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = [(i, j) for i in range(3) for j in range(3)]
        padded, kernels = to_float32(padded), to_float32(kernels)
        parts = (padded[:, i : i + height, j : j + width] * kernels[i, j] for i, j in shifts)
        return sum(parts, start=jnp.zeros((), padded.dtype)).astype(x.dtype)

    torch_names = {'squeeze': 'mlp.0', 'expand': 'mlp.2'}


class LinearAttention(Module):
    """Attention by ReLU instead of softmax, plus a dynamic convolution of the values, `[b h w d] -> [b h w d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        _, rows, _, dim = x.shape
        x = LayerNorm(**self.precision, name='norm')(rearrange(x, 'b h w d -> b (h w) d'))
        qkv = Dense(3 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        q, k = jax.nn.relu(q), jax.nn.relu(k)
        # summed over the tokens first, so that no map is formed
        totals = einsum_float32('b e n j, b e n k -> b e j k', k, v)
        q, lengths = to_float32(q), to_float32(k).sum(axis=2)
        weights = (q * lengths[:, :, None]).sum(axis=-1, keepdims=True)
        y = (q @ totals / jnp.maximum(weights, 1e-6)).astype(v.dtype)
        x = rearrange(merge_heads(y), 'b (h w) c -> b h w c', h=rows)
        values = rearrange(merge_heads(v), 'b (h w) c -> b h w c', h=rows)
        x = x + DynamicConv(**self.precision, name='dynamic_conv')(values)
        if self.heads == 1 and self.dim_head == dim:
            return x
        x = Dense(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class ChosenAttention(Module):
    """One of the three attentions, `[b h w d] -> [b h w d]`; all three have parameters.

    Attributes:
      kinds: constructors of all, by the keys of KINDS.
      options: those among which `choice` chooses.
      window_size: of the windows.
    """

    kinds: dict[str, Callable[..., nn.Module]]
    options: Sequence[str]
    window_size: int

    def setup(self) -> None:
        self.window, self.linear, self.full = (self.kinds[kind]() for kind in KINDS)

    def __call__(self, x: Array, choice: int | Array = 0, train: bool = False) -> Array:
        """Args: x; choice: index into `options`; a traced one runs a single option, too."""
        if self.is_initializing():
            window = jnp.zeros((1, self.window_size, self.window_size, x.shape[-1]), x.dtype)
            for name in KINDS.values():
                getattr(self, name)(window)
        modules = [KINDS[kind] for kind in self.options]
        if len(modules) == 1 or isinstance(choice, int):
            return getattr(self, modules[0 if len(modules) == 1 else int(choice)])(x, train=train)
        if self.tapped or self.is_initializing():
            # the branches of a switch must show the same taps
            return jnp.stack([getattr(self, name)(x, train=train) for name in modules])[choice]
        branches = [lambda module, x, name=name: getattr(module, name)(x, train=train) for name in modules]
        return nn.switch(choice, branches, self, x)

    torch_names = {name: f'options.{kind}' for kind, name in KINDS.items()}


class JetBlock(Module):
    """x + attention(x, choice), then x + feedforward(x)."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, choice: int | Array = 0, train: bool = False) -> Array:
        x = x + self.attention(name='attention')(x, choice, train=train)
        x = x + self.feedforward(name='feedforward')(x, train=train)
        return self.tap('block', x)

    torch_names = {'attention': '0', 'feedforward': '1'}


class JetTransformer(Module):
    """The blocks and a norm, `[b h w d] -> [b h w d]`."""

    attentions: Sequence[Callable[..., nn.Module]]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, choices: Sequence[int | Array], train: bool = False) -> Array:
        for i, attention in enumerate(self.attentions):
            block = JetBlock(attention, self.feedforward, **self.precision, name=f'block_{i}')
            x = block(x, choices[i], train=train)
        return LayerNorm(**self.precision, name='norm')(x)

    torch_names = {'block_{i}': 'layers.{i}'}


class JetViT(ViTBase, kw_only=True):
    """ViT with a choice of attention in each block (arXiv:2605.26636): images `[b h w c]` to `[b num_classes]`.

    Images must be of `image_size`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      window_size: rows and columns of a window; must divide those of the patches where windows are used.
      attn_layers: for each block 'FA' (full attention), 'WA' (within windows) or 'LA' (linear), or a tuple of
        these to choose from at each call; 'FA' for all if None.

    Raises:
      ValueError: as ViT; attn_layers is of another length or holds an unknown name, dim_head does not divide
        dim, windows do not tile the patches, or images of another size.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    window_size: int = 7
    attn_layers: Sequence[str | Sequence[str]] | None = None

    can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_cls_tokens(self) -> int:
        return 0

    @property
    def options(self) -> list[tuple[str, ...]]:
        """The kinds of attention that each block chooses from."""
        layers = ('FA',) * self.depth if self.attn_layers is None else self.attn_layers
        return [(kinds,) if isinstance(kinds, str) else tuple(kinds) for kinds in layers]

    def setup(self) -> None:
        check_divisible('dim', self.dim, 'dim_head', self.dim_head)
        if len(self.options) != self.depth:
            raise ValueError(
                f'attn_layers={self.attn_layers} must hold one entry for each of depth={self.depth} blocks'
            )
        for kind in {kind for options in self.options for kind in options}:
            check_choice('an entry of attn_layers', kind, tuple(KINDS))
        super().setup()

    def trunk(self) -> nn.Module:
        settings: dict[str, Any] = dict(dim_head=self.dim_head, dropout=self.dropout, **self.precision)
        kinds: dict[str, Callable[..., nn.Module]] = {
            'WA': partial(WindowAttention, self.window_size, **settings),
            'LA': partial(LinearAttention, self.heads, **settings),
            'FA': partial(FullAttention, self.heads, **settings),
        }
        attentions = [
            partial(ChosenAttention, kinds, options, self.window_size, **self.precision) for options in self.options
        ]
        return JetTransformer(attentions, self.feedforward(), **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        if images.ndim == 4 and images.shape[1:3] != self.grid.lengths:
            raise ValueError(f'images of shape {images.shape} must be of image_size={self.grid.lengths}')
        return super().embed(images, train)

    def encode(
        self, tokens: Array, train: bool = False, attention_choices: Sequence[int] | Array | None = None
    ) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        choices = attention_choices
        if choices is None:
            # upstream: Python's `random` chooses anew in each call, in evaluation too. Here it is an argument, or
            # drawn in training from the rng `attention`; without either the first of each tuple is taken.
            random = train and max(map(len, self.options), default=1) > 1
            choices = draw_attention_choices(self.make_rng('attention'), self.options) if random else [0] * self.depth
        if len(choices) != self.depth:
            raise ValueError(f'attention_choices of length {len(choices)} must hold one for each of depth={self.depth}')
        if not isinstance(choices, jax.Array):
            choices = np.asarray(choices).tolist()
        x = rearrange(tokens, 'b (h w) d -> b h w d', h=self.grid.shape[0])
        return rearrange(self.transformer(x, choices, train=train), 'b h w d -> b (h w) d')

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        return tokens.mean(axis=1)

    def __call__(
        self, images: Array, train: bool = False, attention_choices: Sequence[int] | Array | None = None
    ) -> Array:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: dropout, and a random choice among the entries of each tuple in `attn_layers`.
          attention_choices: one index for each block, into its tuple (see `draw_attention_choices`). Python
            numbers compile only what they choose, an array of JAX's chooses at run time.
        """
        tokens = self.encode(self.embed(images, train), train, attention_choices)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens


CARD = ModelCard(
    JetViT,
    title='JetViT: Efficient High-Resolution Vision Transformer with Post-Training Attention Search',
    arxiv='2605.26636',
    takes='image [b h w c]',
    paper_size=dict(
        image_size=224,
        patch_size=16,
        num_classes=1000,
        dim=512,
        depth=6,
        heads=8,
        mlp_dim=3072,
        attn_layers=('LA', 'LA', 'WA', 'FA', 'LA', 'FA'),
    ),
)
