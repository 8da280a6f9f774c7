"""EVA-02: A Visual Representation for Neon Genesis, arXiv:2303.11331.

timm's `Eva`: the network of EVA (arXiv:2211.07636), EVA-CLIP, rotary ViTs (arXiv:2403.13298), Perception Encoder
(arXiv:2504.13181) and DINOv3 (arXiv:2508.10104). It differs from VisionTransformer in rotary positions of three kinds,
keys without a bias, SwiGLU, grouped queries, and the places of its norms.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer, constant, normal, zeros

from vit_flax.blocks.attention import attend, merge_heads, split_heads, split_qkv
from vit_flax.blocks.checks import pair
from vit_flax.blocks.dropping import draw_patches
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import add, multiply, repeat, to_float32
from vit_flax.blocks.rotary import rotate
from vit_flax.card import ModelCard
from vit_flax.models.vision_transformer import STANDARD, AttentionPool, Linear, Mlp, PlainViT, Pooling
from vit_flax.weights.timm import sizes

Angles = Array | np.ndarray


class Attention(Module):
    """Multi-head self-attention with rotary positions, `[b n d] -> [b n d]`.

    Attributes:
      kv_heads: of keys and values, each for the same number of queries' heads.
      qkv_bias: a bias on queries and values.
      key_bias: on keys too.
      fused: queries, keys and values are one linear map.
      rotation: turns queries and keys by angles.
      norm: constructor of the norms.
      norms_heads: normalise queries and keys of each head.
      norms_output: normalise the heads' outputs together.
      output_init: of the output projection.
    """

    heads: int
    kv_heads: int
    qkv_bias: bool
    key_bias: bool
    fused: bool
    rotation: Callable[[Array, Any], Array]
    norm: Callable[..., nn.Module]
    norms_heads: bool
    norms_output: bool
    map_dropout: float
    dropout: float
    output_init: Initializer

    @nn.compact
    def __call__(self, x: Array, angles: Angles | None = None, train: bool = False) -> Array:
        """Args: x `[b n d]`; angles `[n k/2]`, with axes of heads and images before if these differ."""
        dim = x.shape[-1]
        width = dim // self.heads
        linear = partial(Linear, **self.precision)
        if not self.fused:
            q = split_heads(linear(dim, use_bias=self.qkv_bias, name='to_q')(x), self.heads)
            key_bias = self.qkv_bias and self.key_bias
            k = split_heads(linear(self.kv_heads * width, use_bias=key_bias, name='to_k')(x), self.kv_heads)
            v = split_heads(linear(self.kv_heads * width, use_bias=self.qkv_bias, name='to_v')(x), self.kv_heads)
        else:
            qkv = linear(3 * dim, use_bias=self.qkv_bias and self.key_bias, name='to_qkv')(x)
            if self.qkv_bias and not self.key_bias:
                q_bias, v_bias = (self.param(f'{name}_bias', zeros, (dim,), self.param_dtype) for name in 'qv')
                bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
                qkv = add(*self.promote(qkv, bias))
            q, k, v = split_qkv(qkv, self.heads)
        if self.norms_heads:
            q, k = self.norm(name='q_norm')(q), self.norm(name='k_norm')(k)
        if angles is not None:
            q, k = self.rotation(q, angles), self.rotation(k, angles)
        k, v = (repeat(t, 'b e n k -> b (e g) n k', g=self.heads // self.kv_heads) for t in (k, v))
        x = merge_heads(attend(self, q, k, v, scale=width**-0.5, dropout=self.map_dropout, train=train))
        if self.norms_output:
            x = self.norm(name='norm')(x)
        x = linear(dim, kernel_init=self.output_init, name='to_out')(x)
        return nn.Dropout(self.dropout, name='output_dropout')(x, deterministic=not train)

    torch_names = {'to_qkv': 'qkv', 'to_q': 'q_proj', 'to_k': 'k_proj', 'to_v': 'v_proj', 'to_out': 'proj'}


class EvaBlock(Module):
    """Attention and a feed-forward network, each residual, scaled and normed before or after, `[b n d] -> [b n d]`.

    Attributes:
      attention, feedforward: constructors, which take the initialiser of their last linear map.
      norm: constructor of the norms.
      post_norm: x + norm(branch(x)) and not x + branch(norm(x)).
      init_values: initial factor of each channel of attention and feed-forward network; None is without.
    """

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    post_norm: bool
    init_values: tuple[float | None, float | None]

    @nn.compact
    def __call__(
        self,
        x: Array,
        positions: Any = None,
        train: bool = False,
        layer: Array | None = None,
        paths: Array | None = None,
    ) -> Array:
        """The block.

        Args:
          x: `[b n d]`.
          positions: what the attention takes of them.
          train: training mode.
          layer: index of the block; the later, the smaller what its branches add at first.
          paths: a factor of each branch for each image, `[2 b]`.
        """

        def shrinking(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
            start = STANDARD(key, shape, dtype)
            return start if layer is None else start / jnp.sqrt(2 * (layer + 1)).astype(dtype)

        attention = self.attention(output_init=shrinking, name='attention')
        feedforward = self.feedforward(contract=partial(Linear, kernel_init=shrinking), name='feedforward')
        branches: tuple[Callable[[Array], Array], ...] = (
            lambda x: attention(x, positions, train),
            lambda x: feedforward(x, train),
        )
        for index, (branch, start) in enumerate(zip(branches, self.init_values, strict=True)):
            norm = self.norm(name=f'norm_{index + 1}')
            y = norm(branch(x)) if self.post_norm else branch(norm(x))
            if start is not None:
                gamma = self.param(f'gamma_{index + 1}', constant(start), x.shape[-1:], self.param_dtype)
                y = multiply(*self.promote(y, gamma))
            x = x + (y if paths is None else y * paths[index, :, None, None].astype(y.dtype))
        return self.tap('block', x)

    torch_names = {'norm_{i}': 'norm{i}', 'attention': 'attn', 'feedforward': 'mlp'}


@dataclass(frozen=True)
class UnlikeBlocks:
    """Constructor of blocks that differ in the heads of their keys and values, by the name of each in `Transformer`."""

    block: Callable[..., nn.Module]
    attention: Callable[..., Callable[..., nn.Module]]
    kv_heads: tuple[int, ...]

    def __call__(self, name: str) -> nn.Module:
        return self.block(self.attention(self.kv_heads[int(name.removeprefix('block_'))]), name=name)


def rotate_half(x: Array, angles: Angles) -> Array:
    """Turns channel i with channel i + k/2, `[... n k], [n k/2] -> [... n k]`."""
    pairs = rearrange(x, '... (two f) -> ... (f two)', two=2)
    return rearrange(rotate(pairs, jnp.asarray(angles)), '... (f two) -> ... (two f)', two=2)


def grid_coordinates(positions: Sequence[np.ndarray], indexing: str) -> np.ndarray:
    """Coordinates of a grid row by row, `[n 2]`: height and width, or with 'xy' width and height."""
    grid = np.stack(np.meshgrid(*positions, indexing='ij'), axis=-1).reshape(-1, 2)
    return grid[:, ::-1] if indexing == 'xy' else grid


def axial(coordinates: Array | np.ndarray, frequencies: np.ndarray) -> Any:
    """Angles of both axes, each with channels of its own, `[n 2], [f] -> [n 2f]`."""
    return (coordinates[:, :, None] * frequencies).reshape(coordinates.shape[0], -1)


def augmented(
    rng: Array, coordinates: np.ndarray, shift: float | None, jitter: float | None, rescale: float | None
) -> Array:
    """Coordinates moved, stretched along each axis and scaled, all of them together, `[n 2] -> [n 2]`.

    Args:
      rng: key.
      coordinates: `[n 2]`.
      shift: the largest, in their units.
      jitter, rescale: the largest factors, of each axis and of both; the smallest are 1 over them. They are uniform in
        their logarithm.
    """
    moved = jnp.asarray(coordinates)
    keys = jax.random.split(rng, 3)
    if shift is not None:
        moved = moved + jax.random.uniform(keys[0], (2,), moved.dtype, -shift, shift)
    for key, factor, axes in ((keys[1], jitter, 2), (keys[2], rescale, 1)):
        if factor is not None:
            largest = math.log(factor)
            moved = moved * jnp.exp(jax.random.uniform(key, (axes,), moved.dtype, -largest, largest))
    return moved


def turned_frequencies(key: Array, shape: Sequence[int], temperature: float, dtype: Any = jnp.float32) -> Array:
    """Frequencies along two axes at right angles, turned at random for each head, `[2 layers e k/2]`."""
    rates = temperature ** -jnp.linspace(0, 1, shape[-1] // 2, endpoint=False, dtype=dtype)
    turn = jax.random.uniform(key, (*shape[1:3], 1), dtype, 0, 2 * math.pi)
    return jnp.stack(
        [
            jnp.concatenate([rates * wave(turn), rates * wave(turn + math.pi / 2)], axis=-1)
            for wave in (jnp.cos, jnp.sin)
        ]
    )


class Eva(PlainViT, kw_only=True):
    """EVA-02 and its relatives (arXiv:2303.11331): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      num_kv_heads: heads of keys and values, in all blocks or in each; None is `num_heads`. Fewer are for
        `attn_type='rope'` without `qkv_fused`.
      qkv_bias: a bias on queries and values, with `attn_type='rope'` on keys too.
      qkv_fused: queries, keys and values are one linear map.
      qk_norm: normalise queries and keys of each head.
      swiglu_mlp: gated feed-forward networks (arXiv:2002.05202).
      swiglu_align_to: round their hidden width up to a multiple of this; 0 does not. The gate stands apart then, as
        with `scale_mlp`.
      scale_mlp: a norm before the second linear map of the feed-forward network (arXiv:2210.06423).
      scale_attn_inner: a norm before the output projection of attention, likewise.
      attn_type: 'eva', whose keys have no bias, or 'rope', whose have.
      attn_only_layer_scale: `init_values` for attention alone.
      num_reg_tokens: number of learned register tokens (arXiv:2309.16588).
      use_abs_pos_emb: learned positions, added to the tokens.
      use_rot_pos_emb: rotary positions of the patches (arXiv:2104.09864).
      rope_type: 'cat', by the number of a patch; 'dinov3', by its centre between -1 and 1; 'mixed', both axes mixed by
        learned frequencies of each block and head (arXiv:2403.13298).
      rope_grid_offset: added to the numbers of patches, or to their halves with 'dinov3'.
      rope_grid_indexing: 'ij' for height, then width; 'xy' the other way round.
      rope_temperature: ratio of the highest to the lowest frequency, about.
      rope_rotate_half: channel i turns with channel i + k/2, not with its neighbour.
      rope_shift_coords: largest shift of all coordinates together in training, drawn from the rng `mask`; likewise
      rope_jitter_coords: largest factor of each axis, and
      rope_rescale_coords: of both axes.
      use_post_norm: x + norm(branch(x)) and not x + branch(norm(x)).
      use_pre_transformer_norm: a norm before the first block; the patch projection has no bias then.
      use_post_transformer_norm: a norm after the last block; None is where there is none after the pooling.
      use_fc_norm: a norm after the pooling; None is for 'avg'.
      attn_pool_num_heads: heads of `global_pool='map'`, which pools all tokens; None is `num_heads`.
      attn_pool_mlp_ratio: hidden width of its feed-forward network over `embed_dim`; None is `mlp_ratio`.
      ref_feat_shape: height and width of the grid, or one number for both, to which the numbers of patches are scaled
        with 'cat'; None does not.
      head_init_scale: factor of the initial weights of the head.

    Raises:
      ValueError: images of another size, heads do not divide the width or each other, pooling and tokens do not go
        together, or rotary positions do not fit the head width, the kind or the arguments.
    """

    global_pool: Pooling = 'avg'
    num_kv_heads: int | Sequence[int] | None = None
    qkv_fused: bool = True
    qk_norm: bool = False
    swiglu_mlp: bool = False
    swiglu_align_to: int = 0
    scale_mlp: bool = False
    scale_attn_inner: bool = False
    attn_type: Literal['eva', 'rope'] = 'eva'
    attn_only_layer_scale: bool = False
    num_reg_tokens: int = 0
    use_abs_pos_emb: bool = True
    use_rot_pos_emb: bool = False
    rope_type: Literal['cat', 'mixed', 'dinov3'] = 'cat'
    rope_grid_offset: float = 0.0
    rope_grid_indexing: Literal['ij', 'xy'] = 'ij'
    rope_temperature: float = 10000.0
    rope_rotate_half: bool = False
    rope_shift_coords: float | None = None
    rope_jitter_coords: float | None = None
    rope_rescale_coords: float | None = None
    use_post_norm: bool = False
    use_pre_transformer_norm: bool = False
    use_post_transformer_norm: bool | None = None
    use_fc_norm: bool | None = None
    attn_pool_num_heads: int | None = None
    attn_pool_mlp_ratio: float | None = None
    ref_feat_shape: int | Sequence[int] | None = None
    head_init_scale: float = 0.001

    # a patch that is dropped takes its angles with it
    can_drop_tokens = False

    def setup(self) -> None:
        super().setup()
        if self.use_rot_pos_emb and self.rope_type == 'mixed':
            shape = 2, self.depth, self.num_heads, self.embed_dim // self.num_heads // 2
            self.rope_freqs = self.param(
                'rope_freqs', turned_frequencies, shape, self.rope_temperature, self.param_dtype
            )

    def _check(self) -> None:
        super()._check()
        if len(self._kv_heads) != self.depth:
            raise ValueError(
                f'num_kv_heads={self.num_kv_heads} must be one number, or one for each of depth={self.depth}'
            )
        if any(self.num_heads % heads for heads in self._kv_heads):
            raise ValueError(f'num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}')
        if any(heads != self.num_heads for heads in self._kv_heads) and (self.attn_type != 'rope' or self.qkv_fused):
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} needs attn_type='rope' and qkv_fused=False, or to be "
                f'num_heads={self.num_heads}'
            )
        if self.scan and len(set(self._kv_heads)) > 1:
            raise ValueError(f'scan=True needs blocks that are alike, not num_kv_heads={self.num_kv_heads}')
        if self.use_post_norm and (self.qk_norm or self.attn_only_layer_scale or self.num_kv_heads is not None):
            raise ValueError('use_post_norm=True is without qk_norm, attn_only_layer_scale and num_kv_heads')
        if self.use_rot_pos_emb and self.embed_dim // self.num_heads % 4:
            raise ValueError(
                f'embed_dim={self.embed_dim} over num_heads={self.num_heads} must be a multiple of 4: pairs of '
                'channels turn along two axes'
            )
        if self.use_rot_pos_emb and self.rope_type == 'mixed' and self.rope_rotate_half:
            raise ValueError("rope_rotate_half=True is not for rope_type='mixed'")
        if self.rope_temperature <= 0:
            raise ValueError(f'rope_temperature={self.rope_temperature} must be above 0')
        for name, low in (('rope_shift_coords', 0), ('rope_jitter_coords', 1), ('rope_rescale_coords', 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f'{name}={value} must be at least {low}')
        if self.embed_dim % self._pool_heads:
            raise ValueError(f'attn_pool_num_heads={self._pool_heads} must divide embed_dim={self.embed_dim}')

    @property
    def _kv_heads(self) -> tuple[int, ...]:
        heads = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        return (heads,) * self.depth if isinstance(heads, int) else tuple(heads)

    @property
    def _pool_heads(self) -> int:
        return self.attn_pool_num_heads or self.num_heads

    def make_block(self, norm: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def attention(kv_heads: int) -> Callable[..., nn.Module]:
            return partial(
                Attention,
                self.num_heads,
                kv_heads,
                qkv_bias=self.qkv_bias,
                key_bias=self.attn_type == 'rope',
                fused=self.qkv_fused,
                rotation=rotate_half if self.rope_rotate_half else rotate,
                norm=norm,
                norms_heads=self.qk_norm,
                norms_output=self.scale_attn_inner,
                map_dropout=self.attn_drop_rate,
                dropout=self.proj_drop_rate,
                **self.precision,
            )

        gate_apart = self.scale_mlp or (self.swiglu_align_to > 0 and not self.use_post_norm)
        hidden = int(self.embed_dim * self.mlp_ratio)
        if self.swiglu_mlp and gate_apart and self.swiglu_align_to:
            hidden += -hidden % self.swiglu_align_to
        packed = self.swiglu_mlp and not gate_apart
        feedforward = partial(
            Mlp,
            2 * hidden if packed else hidden,
            'silu' if self.swiglu_mlp else 'gelu',
            'swiglu_packed' if packed else 'swiglu' if self.swiglu_mlp else 'mlp',
            True,
            self.proj_drop_rate,
            norm if self.scale_mlp else None,
            gate=Linear,
            **self.precision,
        )
        start = None if self.use_post_norm else self.init_values
        scales = start, None if self.attn_only_layer_scale else start

        def block(attention: Callable[..., nn.Module], name: str) -> nn.Module:
            return EvaBlock(attention, feedforward, norm, self.use_post_norm, scales, **self.precision, name=name)

        if len(set(self._kv_heads)) > 1:
            return UnlikeBlocks(block, attention, self._kv_heads)
        return partial(block, attention(self._kv_heads[0] if self.depth else self.num_heads))

    def make_attention_pool(self, norm: Callable[..., nn.Module]) -> nn.Module:
        hidden = int(self.embed_dim * (self.attn_pool_mlp_ratio or self.mlp_ratio))
        mlp = partial(Mlp, hidden, 'gelu', 'mlp', True, 0.0, None, **self.precision)
        return AttentionPool(self._pool_heads, mlp, norm, **self.precision)

    def make_head(self) -> nn.Module:
        scale = self.head_init_scale or 1.0

        return Linear(self.num_classes, kernel_init=normal(0.02 * scale), **self.precision)

    @property
    def learned_tokens(self) -> dict[str, tuple[int, Initializer]]:
        registers = {'reg_token': (self.num_reg_tokens, STANDARD)} if self.num_reg_tokens else {}
        return super().learned_tokens | registers

    @property
    def has_positions(self) -> bool:
        return self.use_abs_pos_emb

    @property
    def norms_embedding(self) -> bool:
        return self.use_pre_transformer_norm

    @property
    def norms_tokens(self) -> bool:
        after = self.use_post_transformer_norm
        return not self.norms_pooled if after is None else after

    @property
    def norms_pooled(self) -> bool:
        return self.global_pool == 'avg' if self.use_fc_norm is None else self.use_fc_norm

    @property
    def pools_prefix(self) -> bool:
        return self.global_pool == 'map'

    def drop_patches(self, x: Array, train: bool = False) -> Array:
        """Nothing yet: `encode` drops patches, together with their angles."""
        return x

    def encode(
        self,
        tokens: Array,
        train: bool = False,
        keep_paths: Array | None = None,
        grid: Sequence[int] | None = None,
    ) -> Array:
        """The blocks, between two norms where there are, `[b n d] -> [b n' d]`.

        Args:
          tokens: `[b n d]`.
          train: training mode.
          keep_paths: bool `[depth 2 b]`, which branches run for which image, in place of `draw_paths` from the rng
            `drop_path`.
          grid: of the patches, if not that of `img_size`.
        """
        angles = self.angles(grid or self.grid.shape, train) if self.use_rot_pos_emb else None
        first = self.num_prefix_tokens
        if train and self.patch_drop_rate > 0:
            patches = tokens.shape[1] - first
            kept = draw_patches(self.make_rng('mask'), tokens.shape[0], patches, self.patch_drop_rate)
            left = jnp.take_along_axis(tokens[:, first:], kept[..., None], axis=1)
            tokens = jnp.concatenate([tokens[:, :first], left], axis=1)
            if angles is not None:
                # in front of the tokens an axis of heads; those of other kinds than 'mixed' are alike
                axes = 'l e b n f -> l b e n f' if angles.ndim > 2 else 'b n f -> b 1 n f'
                angles = rearrange(jnp.asarray(angles)[..., kept, :], axes)
        if angles is not None:
            angles = jnp.pad(angles, [(0, 0)] * (angles.ndim - 2) + [(first, 0), (0, 0)])
        x = self.norm_pre(tokens) if self.norms_embedding else tokens
        layer = {'layer': jnp.arange(self.depth)}
        if self.rope_type == 'mixed' and angles is not None:
            return self.run_blocks(x, train, keep_paths, positions=angles, **layer)
        return self.run_blocks(x, train, keep_paths, angles, **layer)

    def angles(self, shape: Sequence[int], train: bool = False) -> Angles:
        """Of the patches of a grid, `[n k/2]`; of 'mixed' for each block and head, `[depth e n k/2]`."""
        rates = self.rope_temperature ** -np.linspace(0, 1, self.embed_dim // self.num_heads // 4, endpoint=False)
        if self.rope_type == 'dinov3':
            numbers: list[Any] = [
                (np.arange(length) + 0.5 + self.rope_grid_offset) / length * 2 - 1 for length in shape
            ]
            rates = 2 * math.pi * rates
        else:
            numbers = [np.arange(length) + 0.0 for length in shape]
        if self.rope_type == 'cat':
            reference = pair(shape if self.ref_feat_shape is None else self.ref_feat_shape, 'ref_feat_shape')
            numbers = [
                (number + self.rope_grid_offset) / length * other
                for number, length, other in zip(numbers, shape, reference, strict=True)
            ]
        coordinates: Angles = grid_coordinates(numbers, self.rope_grid_indexing)
        augmentations = self.rope_shift_coords, self.rope_jitter_coords, self.rope_rescale_coords
        if train and augmentations != (None, None, None):
            coordinates = augmented(self.make_rng('mask'), np.asarray(coordinates), *augmentations)
        if self.rope_type != 'mixed':
            return axial(coordinates, rates)
        first, second = to_float32(self.rope_freqs)[..., None, :]
        return first * coordinates[:, :1] + second * coordinates[:, 1:]

    def forward_features(self, images: Array, train: bool = False) -> Array:
        grid = self.grid.shape
        if images.shape[1:3] != pair(self.img_size):
            grid = tuple(-(-length // patch) for length, patch in zip(images.shape[1:3], self.grid.patch, strict=True))
        return self.encode(self.embed(images, train), train, grid=grid)

    torch_names = {'rope_freqs': 'rope.freqs'}


CARD = ModelCard(
    Eva,
    title='EVA-02: A Visual Representation for Neon Genesis',
    arxiv='2303.11331',
    takes='image [b h w c]',
    paper_size={},
    presets=sizes('eva'),
)
