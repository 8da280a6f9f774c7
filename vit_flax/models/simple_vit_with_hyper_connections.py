"""Hyper-Connections, arXiv:2409.19606.

vit-pytorch's `simple_vit_with_hyper_connections`: SimpleViT with registers whose residual stream is
several streams; each branch reads a learned mixture of them and writes back to all, by weights that
depend on the token (the paper's dynamic form).
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import constant, ones, zeros

from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import einsum_float32, repeat, to_float32
from vit_flax.blocks.torch_like import LayerNorm
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit_with_register_tokens import WithRegisters
from vit_flax.models.vit import published_size


class HyperConnection(Module):
    """Around one branch: mixes the streams for it and adds what it returns, `[b n s d] -> [b n s d]`."""

    @nn.compact
    def __call__(self, streams: Array, layer: Array, branch: Callable[[Array], Array]) -> Array:
        """Args: streams `[b n s d]`; layer: index of the block, modulo s the stream it reads at first; branch."""
        _, _, count, dim = streams.shape

        def static_mixture(key, shape, dtype):
            own = jnp.arange(count)[:, None] == layer % count
            return jnp.concatenate([own, jnp.eye(count, dtype=bool)], axis=1).astype(dtype)

        static_alpha = self.param('static_alpha', static_mixture, (count, count + 1), self.param_dtype)
        static_beta = self.param('static_beta', ones, (count,), self.param_dtype)
        alpha_fn = self.param('dynamic_alpha_fn', zeros, (dim, count + 1), self.param_dtype)
        alpha_scale = self.param('dynamic_alpha_scale', constant(1e-2), (), self.param_dtype)
        beta_fn = self.param('dynamic_beta_fn', zeros, (dim,), self.param_dtype)
        beta_scale = self.param('dynamic_beta_scale', constant(1e-2), (), self.param_dtype)
        normed = LayerNorm(use_bias=False, **self.precision, name='norm')(streams)
        streams, normed, alpha_fn, beta_fn = self.promote(streams, normed, alpha_fn, beta_fn)

        def dynamic(factors, scale, static):
            said = jnp.tanh(einsum_float32('b n s d, d m -> b n s m', normed, factors))
            return said * to_float32(scale) + to_float32(static)

        alpha = dynamic(alpha_fn, alpha_scale, static_alpha)
        beta = dynamic(beta_fn[:, None], beta_scale, static_beta[:, None])
        # a handful of streams: no matrix product that would want 16-bit factors
        mixed = jnp.einsum('b n s m, b n s d -> b n m d', alpha, to_float32(streams))
        update = branch(mixed[:, :, 0].astype(streams.dtype))
        return (mixed[:, :, 1:] + to_float32(update)[:, :, None] * beta).astype(streams.dtype)


class HyperBlock(Module):
    """Attention and feed-forward, each with a hyper-connection, `[b n s d] -> [b n s d]`."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, layer: Array, train: bool = False) -> Array:
        attention, feedforward = self.attention(name='attention'), self.feedforward(name='feedforward')
        connection = partial(HyperConnection, **self.precision)
        x = connection(name='attention_connection')(x, layer, partial(attention, train=train))
        x = connection(name='feedforward_connection')(x, layer, partial(feedforward, train=train))
        return self.tap('block', x)

    torch_names = {'attention_connection': '0', 'attention': '1', 'feedforward_connection': '2', 'feedforward': '3'}


class HyperTransformer(Module):
    """Copies the tokens to all streams, runs the blocks, and adds the streams up, `[b n d] -> [b n d]`."""

    depth: int
    num_residual_streams: int
    block: Callable[..., nn.Module]
    scan: bool = False
    remat: Remat = False

    def setup(self) -> None:
        self.blocks = Transformer(self.depth, self.block, scan=self.scan, remat=self.remat)
        self.norm = LayerNorm(**self.precision)

    def __call__(self, x: Array, train: bool = False) -> Array:
        streams = repeat(x, 'b n d -> b n s d', s=self.num_residual_streams)
        streams = self.blocks(streams, train=train, layer=jnp.arange(self.depth))
        return self.norm(streams.sum(axis=2))

    torch_names = {'blocks': ''}


class SimpleViT(WithRegisters, kw_only=True):
    """SimpleViT with hyper-connections (arXiv:2409.19606): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      num_residual_streams: streams, the paper's expansion rate.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    num_residual_streams: int
    scan: bool = False
    remat: Remat = False

    def block(self) -> Callable[..., nn.Module]:
        return partial(HyperBlock, attention=self.attention(), feedforward=self.feedforward(), **self.precision)

    def trunk(self) -> nn.Module:
        return HyperTransformer(
            self.depth, self.num_residual_streams, self.block(), self.scan, self.remat, **self.precision
        )


CARD = ModelCard(
    SimpleViT,
    title='Hyper-Connections',
    arxiv='2409.19606',
    takes='image [b h w c]',
    paper_size=dict(**published_size(16, 384, 12, 6), num_residual_streams=4),
)
