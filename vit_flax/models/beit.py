"""BEiT: BERT Pre-Training of Image Transformers, arXiv:2106.08254.

timm's `Beit`, also of BEiT v2 (arXiv:2208.06366). It differs from VisionTransformer in a learned bias of each head for
the relative position of two patches, in place of or beside positions of the tokens, and in keys without a bias.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer, normal, zeros

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, to_float32
from vit_flax.card import ModelCard
from vit_flax.models.eva import EvaBlock
from vit_flax.models.vision_transformer import Linear, Mlp, PlainViT
from vit_flax.weights.timm import sizes


def relative_rows(shape: Sequence[int]) -> np.ndarray:
    """Rows of a table of relative positions, for each query and key of a class token and a grid, `[n n]`.

    The last three are of the class token: as query, as key, and as both.
    """
    rows, columns = shape
    row, column = np.indices(tuple(shape)).reshape(2, -1)
    down = row[:, None] - row + rows - 1
    right = column[:, None] - column + columns - 1
    index = np.pad(down * (2 * columns - 1) + right, ((1, 0), (1, 0)))
    offsets = (2 * rows - 1) * (2 * columns - 1)
    index[0], index[:, 0], index[0, 0] = offsets, offsets + 1, offsets + 2
    return index


class RelativeBias(Module):
    """A learned bias for each head and relative position in a grid behind a class token, `[e n n]`."""

    shape: Sequence[int]
    heads: int

    @property
    def of_offsets(self) -> PositionTable:
        """Which row of the table is of which offset."""
        rows, columns = self.shape
        return PositionTable((2 * rows - 1, 2 * columns - 1), suffix=3, offsets=True)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'table': self.of_offsets}

    @nn.compact
    def __call__(self) -> Array:
        table = self.param('table', zeros, (self.of_offsets.rows, self.heads), self.param_dtype)
        return rearrange(to_float32(table)[relative_rows(self.shape)], 'n m e -> e n m')

    torch_names = {'table': 'relative_position_bias_table'}


class Attention(Module):
    """Multi-head self-attention with biases of its own and of all blocks, `[b n d] -> [b n d]`.

    Attributes:
      bias: constructor of the own one.
      output_init: of the output projection.
    """

    heads: int
    qkv_bias: bool
    bias: Callable[..., nn.Module] | None
    map_dropout: float
    dropout: float
    output_init: Initializer

    @nn.compact
    def __call__(self, x: Array, shared: Array | None = None, train: bool = False) -> Array:
        """Args: x `[b n d]`; shared: a bias of the scores, `[e n n]`."""
        dim = x.shape[-1]
        qkv = Linear(3 * dim, use_bias=False, **self.precision, name='to_qkv')(x)
        if self.qkv_bias:
            q_bias, v_bias = (self.param(f'{name}_bias', zeros, (dim,), self.param_dtype) for name in 'qv')
            qkv = add(*self.promote(qkv, jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])))
        bias = shared
        if self.bias is not None:
            own = self.bias(name='bias')()
            bias = own if shared is None else own + shared
        q, k, v = split_qkv(qkv, self.heads)
        scale = (dim // self.heads) ** -0.5
        x = attend(self, q, k, v, scale=scale, bias=bias, dropout=self.map_dropout, train=train)
        x = Linear(dim, kernel_init=self.output_init, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='output_dropout')(x, deterministic=not train)

    torch_names = {'to_qkv': 'qkv', 'to_out': 'proj', 'bias': ''}


class Beit(PlainViT, kw_only=True):
    """BEiT (arXiv:2106.08254): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      global_pool: what the head reads: 'avg' the mean of the patches, 'token' the class token, '' every token.
      qkv_bias: a bias on queries and values.
      swiglu_mlp: gated feed-forward networks (arXiv:2002.05202).
      scale_mlp: a norm before the second linear map of the feed-forward network (arXiv:2210.06423).
      use_abs_pos_emb: learned positions, added to the tokens.
      use_rel_pos_bias: in each block a learned bias for each head and relative position.
      use_shared_rel_pos_bias: one that all blocks share.
      use_fc_norm: have the last norm after the pooling; None does for 'avg'.
      head_init_scale: factor of the initial weights of the head.

    Raises:
      ValueError: images of another size, or heads do not divide the width.
    """

    global_pool: Literal['', 'avg', 'token'] = 'avg'
    swiglu_mlp: bool = False
    scale_mlp: bool = False
    use_abs_pos_emb: bool = True
    use_rel_pos_bias: bool = False
    use_shared_rel_pos_bias: bool = False
    use_fc_norm: bool | None = None
    head_init_scale: float = 0.001

    # timm's has no such arguments
    class_token: ClassVar[bool] = True  # type: ignore[misc]
    no_embed_class: ClassVar[bool] = False  # type: ignore[misc]
    dynamic_img_size: ClassVar[bool] = False  # type: ignore[misc]
    dynamic_img_pad: ClassVar[bool] = False  # type: ignore[misc]
    patch_drop_rate: ClassVar[float] = 0.0  # type: ignore[misc]

    # a bias is of two patches that are there
    can_drop_tokens = False

    def setup(self) -> None:
        super().setup()
        if self.use_shared_rel_pos_bias:
            self.rel_pos_bias = RelativeBias(self.grid.shape, self.num_heads, **self.precision)

    def make_block(self, norm: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        bias = partial(RelativeBias, self.grid.shape, self.num_heads, **self.precision)
        attention = partial(
            Attention,
            self.num_heads,
            self.qkv_bias,
            bias if self.use_rel_pos_bias else None,
            self.attn_drop_rate,
            self.proj_drop_rate,
            **self.precision,
        )
        feedforward = partial(
            Mlp,
            int(self.embed_dim * self.mlp_ratio),
            'silu' if self.swiglu_mlp else 'gelu',
            'swiglu' if self.swiglu_mlp else 'mlp',
            True,
            self.proj_drop_rate,
            norm if self.scale_mlp else None,
            gate=Linear,
            **self.precision,
        )
        start = self.init_values or None
        return partial(EvaBlock, attention, feedforward, norm, False, (start, start), **self.precision)

    def make_head(self) -> nn.Module:
        return Linear(self.num_classes, kernel_init=normal(0.02 * (self.head_init_scale or 1)), **self.precision)

    @property
    def has_positions(self) -> bool:
        return self.use_abs_pos_emb

    @property
    def norms_pooled(self) -> bool:
        return self.global_pool == 'avg' if self.use_fc_norm is None else self.use_fc_norm

    def encode(self, tokens: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """The blocks, and a norm behind them where there is one, `[b n d] -> [b n d]`.

        Args:
          tokens: `[b n d]`.
          train: training mode.
          keep_paths: bool `[depth 2 b]`, which branches run for which image, in place of `draw_paths` from the rng
            `drop_path`.
        """
        shared = self.rel_pos_bias() if self.use_shared_rel_pos_bias else None
        return self.run_blocks(tokens, train, keep_paths, shared, layer=jnp.arange(self.depth))


CARD = ModelCard(
    Beit,
    title='BEiT: BERT Pre-Training of Image Transformers',
    arxiv='2106.08254',
    takes='image [b h w c]',
    paper_size={},
    presets=sizes('beit'),
)
