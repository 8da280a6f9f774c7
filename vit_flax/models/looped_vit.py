"""Looped Diffusion Transformer, arXiv:2609.40305, as an image classifier.

vit-pytorch's `looped_vit`: a few blocks in the middle of a ViT are run again and again with the same
weights; more loops, at any time, mean more computation and better logits. Attention takes what a token
already holds out of what it receives, and gates each head. A gate may guess what further loops would
gain, and stop.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array, lax
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, merge_heads, split_heads, split_qkv
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_choice
from vit_flax.blocks.class_token import ClassTokenAndPositions
from vit_flax.blocks.grids import Grid, nd_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import unit_length
from vit_flax.blocks.patches import patchify
from vit_flax.blocks.precision import multiply, repeat, to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm, gelu
from vit_flax.blocks.transformer import Block, FeedForward, Remat, Transformer
from vit_flax.card import ModelCard

Weighting = str | Sequence[float]

WEIGHTINGS: dict[str, Callable[[int], np.ndarray]] = {
    'final': lambda loops: np.eye(loops)[-1],
    'exponential': lambda loops: 2.0 ** np.arange(1 - loops, 1),
    'final_mean': lambda loops: np.append(np.full(loops - 1, 1 / max(loops - 1, 1)), 1.0),
}


def deep_supervision_weights(num_loops: int, weighting: Weighting = 'final_mean') -> np.ndarray:
    """Weight of each loop's loss, `[loops]`.

    Args:
      num_loops: how many there are.
      weighting: 'final' only the last; 'exponential' each twice the one before, the last 1; 'final_mean' the last
        1 and the others 1 together; or the weights themselves.

    Raises:
      ValueError: unknown name, or not one weight for each loop.
    """
    if isinstance(weighting, str):
        check_choice('weighting', weighting, tuple(WEIGHTINGS))
        return WEIGHTINGS[weighting](num_loops)
    weights = np.asarray(weighting)
    if weights.shape != (num_loops,):
        raise ValueError(f'weighting={weighting} must hold {num_loops} weights, one for each loop')
    return weights


def loss_of_each_loop(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Cross entropy with torch's label smoothing, `[l b c], [b] -> [l b]`."""
    log_shares = jax.nn.log_softmax(to_float32(logits), axis=-1)
    wanted = jnp.broadcast_to(labels[None, :, None], (len(logits), len(labels), 1))
    right = jnp.take_along_axis(log_shares, wanted, axis=-1)[..., 0]
    return -(1 - label_smoothing) * right - label_smoothing * log_shares.mean(axis=-1)


def deep_supervision_loss(
    logits: Array, labels: Array, weighting: Weighting = 'final_mean', label_smoothing: float = 0.0
) -> Array:
    """Cross entropy of the logits of all loops, a scalar.

    Args:
      logits: `[l b c]` of a call with `return_all_logits=True`, or `[b c]` of the last loop alone.
      labels: int `[b]`.
      weighting: see `deep_supervision_weights`.
      label_smoothing: share of the target that is spread over all classes.
    """
    if logits.ndim == 2:
        return loss_of_each_loop(logits[None], labels, label_smoothing).mean()
    losses = loss_of_each_loop(logits, labels, label_smoothing)
    weights = deep_supervision_weights(len(logits), weighting).astype(losses.dtype)
    return (losses * weights[:, None]).sum(axis=0).mean()


def adaptive_exit_targets(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """What the exit gate is to learn, without gradient, `[l b c], [b] -> [l-1 b]`.

    After each loop but the last: the largest fall of the loss per further loop, over all numbers of them; 0 if none
    makes it fall.

    Raises:
      ValueError: logits of fewer than two loops.
    """
    if logits.ndim != 3 or len(logits) < 2:
        raise ValueError(f'logits of shape {logits.shape} must be [l b c] of at least 2 loops')
    losses = loss_of_each_loop(lax.stop_gradient(logits), labels, label_smoothing)
    index = np.arange(len(losses))
    further = (index[None] - index[:, None])[..., None]
    gains = jnp.where(further > 0, (losses[:, None] - losses[None]) / np.maximum(further, 1), 0)
    return jnp.maximum(gains, 0).max(axis=1)[:-1]


class Attention(Module):
    """Exclusive self-attention with a gate for each head, `[b n d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = LayerNorm(**self.precision, name='norm')(x)
        qkv = Dense(3 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_qkv')(x)
        gate = jax.nn.sigmoid(to_float32(Dense(self.heads, use_bias=False, **self.precision, name='to_gate')(x)))
        q, k, v = split_qkv(qkv, self.heads)
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        # what points along the token's own value is taken out
        own, wide = unit_length(v), to_float32(x)
        x = (wide - (wide * own).sum(axis=-1, keepdims=True) * own).astype(x.dtype)
        x = multiply(x, rearrange(gate, 'b n e -> b e n 1'))
        x = Dense(dim, use_bias=False, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class ExitGate(Module):
    """What further loops would gain for each image, `[b n d] -> [b]`: learned queries read all tokens."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0
    num_queries: int = 4
    mlp_mult: int = 2

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        batch, _, dim = x.shape
        shape = self.heads, self.num_queries, self.dim_head
        queries = self.param('queries', normal(self.dim_head**-0.5), shape, self.param_dtype)
        x = LayerNorm(**self.precision, name='norm_kv')(x)
        kv = Dense(2 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_kv')(x)
        k, v = (split_heads(t, self.heads) for t in jnp.split(kv, 2, axis=-1))
        q, k, v = self.promote(repeat(queries, 'e q k -> b e q k', b=batch), k, v)
        x = merge_heads(attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train))
        x = Dense(dim, use_bias=False, **self.precision, name='to_out')(x).mean(axis=1)
        x = LayerNorm(**self.precision, name='norm')(x)
        x = gelu(Dense(self.mlp_mult * dim, **self.precision, name='expand')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        return Dense(1, **self.precision, name='to_benefit')(x)[:, 0]

    torch_names = {'norm': 'mlp.0', 'expand': 'mlp.1', 'to_benefit': 'mlp.4'}


def _at_least_one(loops: int) -> None:
    if loops < 1:
        raise ValueError(f'loop_depth={loops} must be at least 1')


class LoopedViT(Backbone, kw_only=True):
    """Looped ViT (arXiv:2609.40305): grids `[b *grid c]` to logits `[b num_classes]`.

    Attributes:
      num_classes: width of the logits; 0 returns the pooled tokens `[b dim]` instead.
      dim: width of a token.
      ndim: axes of the grid, 1 to 7; follows from `input_shape` if that is a tuple.
      input_shape: lengths of these axes, or one number for all; inputs must be of this shape.
      patch_size: of a patch, likewise; must divide the input's.
      image_size: another name of `input_shape`.
      pre_loop_depth: blocks before the loop.
      num_looped_blocks: blocks of the loop.
      post_loop_depth: blocks after it.
      loop_depth: how often the loop is run.
      deep_supervision_weighting: of `loop_weights`; see `deep_supervision_weights`.
      pool: 'cls' classifies the class token, 'mean' the average of all others.
      heads: attention heads in each block.
      dim_head: width of one head.
      mlp_dim: hidden width of the feed-forward networks.
      channels: of the input.
      dropout: rate after each projection and on the attention maps.
      emb_dropout: rate on the embedded tokens.
      adaptive_loop: have a gate that guesses the benefit of further loops.
      exit_threshold: the loop ends once the gate promises no image of the batch more than this.
      scan: compile one block for all layers of a stack, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: no shape given or of other than `ndim` axes, patches do not tile it, unknown pool or weighting,
        inputs of another shape, fewer than one loop, or an exit without a gate or with one loop.
    """

    num_classes: int
    dim: int
    ndim: int = 2
    input_shape: int | Sequence[int] | None = None
    patch_size: int | Sequence[int] | None = None
    image_size: int | Sequence[int] | None = None
    pre_loop_depth: int = 6
    num_looped_blocks: int = 5
    post_loop_depth: int = 6
    loop_depth: int = 4
    deep_supervision_weighting: Weighting = 'final_mean'
    pool: str = 'cls'
    heads: int = 8
    dim_head: int = 64
    mlp_dim: int = 2048
    channels: int = 3
    dropout: float = 0.0
    emb_dropout: float = 0.0
    adaptive_loop: bool = False
    exit_threshold: float = 0.0
    scan: bool = False
    remat: Remat = False

    taps_latent = False

    @property
    def grid(self) -> Grid:
        shape = self.image_size if self.input_shape is None else self.input_shape
        if shape is None:
            raise ValueError('input_shape=None must be given, or image_size')
        if self.patch_size is None:
            raise ValueError('patch_size=None must be given')
        return nd_grid(self.ndim if isinstance(shape, int) else len(shape), shape, self.patch_size, self.channels)

    @property
    def layout(self) -> str:
        return self.grid.layout

    @property
    def num_prefix_tokens(self) -> int:
        return 1

    @property
    def loop_weights(self) -> np.ndarray:
        """Weights of the loops' losses, `[loop_depth]`."""
        return deep_supervision_weights(self.loop_depth, self.deep_supervision_weighting)

    def setup(self) -> None:
        check_choice('pool', self.pool, ('cls', 'mean'))
        _at_least_one(self.loop_depth)
        _ = self.loop_weights
        self.patch_projection, self.patch_norm = Dense(self.dim, **self.precision), LayerNorm(**self.precision)
        self.positions = ClassTokenAndPositions(self.grid.shape, self.grid.lengths, self.emb_dropout, **self.precision)
        block = partial(
            Block,
            attention=partial(Attention, self.heads, self.dim_head, self.dropout, **self.precision),
            feedforward=partial(FeedForward, self.mlp_dim, self.dropout, **self.precision),
        )
        self.pre_loop, self.looped, self.post_loop = (
            Transformer(depth, block, scan=self.scan, remat=self.remat)
            for depth in (self.pre_loop_depth, self.num_looped_blocks, self.post_loop_depth)
        )
        self.norm = LayerNorm(**self.precision)
        if self.num_classes > 0:
            self.mlp_head = Dense(self.num_classes, **self.precision)
        if self.adaptive_loop:
            self.exit_gate = ExitGate(self.heads, self.dim_head, self.dropout, **self.precision)

    def embed(self, x: Array, train: bool = False) -> Array:
        """Grids to tokens with positions, class token first, `[b *grid c] -> [b 1+n d]`."""
        self.grid.check(x)
        if x.shape[1:-1] != self.grid.lengths:
            raise ValueError(
                f'input of shape {x.shape} must be of input_shape={self.grid.lengths}, with batch and channels'
            )
        x = patchify(x, self.grid.patch)
        return self.tap('embedding', self.positions(self.patch_norm(self.patch_projection(x)), train))

    def decode(self, x: Array, train: bool = False) -> Array:
        """The blocks after the loop and the norm, `[b n d] -> [b n d]`."""
        return self.norm(self.post_loop(x, train=train))

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """Decoded tokens to logits, `[b n d] -> [b num_classes]`; to the pooled token `[b d]` without classes."""
        x = tokens[:, 1:].mean(axis=1) if self.pool == 'mean' else tokens[:, 0]
        return self.mlp_head(x) if self.num_classes > 0 else x

    def _loop(self, x: Array, benefit: Array, train: bool, gate: bool) -> tuple[Array, Array, Array]:
        """One loop: the tokens, their logits, and the benefit of another loop if the gate is asked."""
        x = self.looped(x, train=train)
        decoded = self.decode(x, train)
        return x, self.classify(decoded), self.exit_gate(decoded, train) if gate else benefit

    def _loop_unless(
        self, exited: Array, x: Array, logits: Array, benefit: Array, train: bool, gate: bool
    ) -> tuple[Array, Array, Array]:
        """The same, or all as it was if the loop has ended; then it costs nothing."""

        def go_on(module: 'LoopedViT', x: Array, logits: Array, benefit: Array) -> tuple[Array, Array, Array]:
            return module._loop(x, benefit, train, gate)

        def stay(module: 'LoopedViT', x: Array, logits: Array, benefit: Array) -> tuple[Array, Array, Array]:
            return x, logits, benefit

        old = x, logits, benefit
        if self.tapped or self.is_initializing():
            # both branches of a condition must show the same taps
            new = go_on(self, *old)
            x, logits, benefit = (jnp.where(exited, *pair) for pair in zip(old, new, strict=True))
            return x, logits, benefit
        return nn.cond(exited, stay, go_on, self, *old)

    def __call__(
        self,
        x: Array,
        train: bool = False,
        loop_depth: int | None = None,
        return_all_logits: bool = False,
        return_exit_benefits: bool = False,
        adaptive_exit: bool = False,
        exit_threshold: float | Array | None = None,
    ) -> Any:
        """Grids to logits.

        Args:
          x: `[b *grid c]`.
          train: dropout.
          loop_depth: how often the loop is run, or at most with `adaptive_exit`; the model's own if None.
          return_all_logits: of every loop, `[loops b num_classes]`.
          return_exit_benefits: also return what the gate expects after each loop but the last, `[loops-1 b]`.
          adaptive_exit: end once the gate promises no image of the batch more than the threshold. Shapes stay:
            the rows of all loops that were not run repeat the last one that was, so that the last row of the
            logits is the answer.
          exit_threshold: the threshold; the model's own if None.
        """
        loops = self.loop_depth if loop_depth is None else loop_depth
        threshold = self.exit_threshold if exit_threshold is None else exit_threshold
        gated = adaptive_exit or return_exit_benefits
        _at_least_one(loops)
        if gated and not self.adaptive_loop:
            raise ValueError('adaptive_loop=False: adaptive_exit and return_exit_benefits need a model with the gate')
        if gated and loops < 2:
            raise ValueError(f'loop_depth={loops} must be at least 2 for adaptive_exit and return_exit_benefits')

        x = self.pre_loop(self.embed(x, train), train=train)
        benefit = jnp.zeros(x.shape[0], x.dtype)
        exited = jnp.zeros((), bool)
        all_logits: list[Array] = []
        benefits: list[Array] = []
        for loop in range(loops):
            last = loop == loops - 1
            if not (last or gated or return_all_logits):
                x = self.looped(x, train=train)
                continue
            gate = gated and not last
            if adaptive_exit and loop > 0:
                # upstream: the whole batch leaves together, when its most promising image has nothing to gain.
                x, logits, benefit = self._loop_unless(exited, x, all_logits[-1], benefit, train, gate)
            else:
                x, logits, benefit = self._loop(x, benefit, train, gate)
            all_logits.append(logits)
            if gate:
                benefits.append(benefit)
                exited = exited | jnp.all(benefit <= threshold)
        if self.adaptive_loop and self.is_initializing():
            self.exit_gate(self.decode(x, train), train)
        logits = jnp.stack(all_logits) if return_all_logits else all_logits[-1]
        return (logits, jnp.stack(benefits)) if return_exit_benefits else logits

    torch_names = {
        'patch_projection': 'to_patch_embedding.1',
        'patch_norm': 'to_patch_embedding.2',
        'positions': '',
    }


CARD = ModelCard(
    LoopedViT,
    title='Looped Diffusion Transformer',
    arxiv='2609.40305',
    takes='n-d [b *grid c]',
    paper_size=dict(image_size=256, patch_size=16, num_classes=1000, dim=512),
)
