"""Fine-tuning Image Transformers using Learnable Memory, arXiv:2203.15243.

vit-pytorch's `learnable_memory_vit`: a ViT that is trained once and then frozen, and adapters that
add to each layer a few learned tokens to attend to, a class token and a head. The backbone's own
tokens do not attend to them, so its output stays as it was and many adapters can share it.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, NormedHead, ViTBase, published_size


class MemoryAttention(Module):
    """Tokens attend to themselves and to memories, if there are any, `[b n d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Array, mask: Array | None = None, memories: Array | None = None, train: bool = False
    ) -> Array:
        """Args: x `[b n d]`; mask bool `[n n+m]`, True where attention is allowed; memories `[m d]`."""
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = seen = LayerNorm(**self.precision, name='norm')(x)
        if memories is not None:
            x, memories = self.promote(x, repeat(memories, 'm d -> b m d', b=x.shape[0]))
            seen = jnp.concatenate([x, memories], axis=1)
        q = Dense(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = Dense(2 * inner, use_bias=False, **self.precision, name='to_kv')(seen)
        q, k, v = (split_heads(t, self.heads) for t in (q, *jnp.split(kv, 2, axis=-1)))
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, mask=mask, dropout=self.dropout, train=train)
        x = Dense(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class ViT(ViTBase, kw_only=True):
    """ViT that takes memories (arXiv:2203.15243): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      pool: without effect, as upstream: the class token is classified.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    pool: str = 'cls'
    scan: bool = False
    remat: Remat = False

    norm_in_head = True

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(MemoryAttention, self.heads, self.dim_head, self.dropout, **self.precision)

    def encode(
        self, tokens: Array, train: bool = False, mask: Array | None = None, memories: Array | None = None
    ) -> Array:
        """The transformer, `[b n d] -> [b n d]`.

        Args:
          tokens: `[b n d]`.
          train: dropout.
          mask: bool `[n n+m]`, True where attention is allowed.
          memories: `[depth m d]`, further tokens that each layer attends to.
        """
        per_layer = {} if memories is None else {'memories': memories}
        return self.transformer(tokens, mask, train=train, **per_layer)

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        # upstream: pool='mean' is accepted and has no effect.
        return tokens[:, 0]

    torch_names = BATCH_AXES


def memory_mask(tokens: int, memories: int) -> np.ndarray:
    """Attention mask, bool `[1+tokens 1+tokens+memories]`.

    First the adapter's class token, which attends to everything; then the backbone's tokens, which attend
    to one another; the memories come last and are only attended to.
    """
    mask = np.zeros((1 + tokens, 1 + tokens + memories), bool)
    mask[0] = True
    mask[1:, 1 : 1 + tokens] = True
    return mask


class Adapter(Module, kw_only=True):
    """A frozen ViT with learned memories and a head of its own: images `[b h w c]` to logits `[b num_classes]`.

    The backbone's parameters are `params['vit']` of the adapter. They get zero gradients here (leave
    them out of the optimizer too, lest weight decay shrinks them), and several adapters may be
    applied to the same arrays:

        backbone = vit.init(key, images)['params']            # or trained
        first, second = Adapter(vit=vit, num_classes=2), Adapter(vit=vit, num_classes=4)
        own = first.init(key, images)['params']
        logits = first.apply({'params': {**own, 'vit': backbone}}, images)

    Attributes:
      vit: a ViT of this module; its head is not used.
      num_memories_per_layer: learned tokens that each layer attends to.
      num_classes: width of the logits.

    Raises:
      ValueError: `vit` is of another class.
    """

    vit: ViT
    num_memories_per_layer: int = 10
    num_classes: int = 2

    def setup(self) -> None:
        dim, depth = self.vit.dim, self.vit.depth
        self.memory_cls_token = self.param('memory_cls_token', normal(1.0), (dim,), self.param_dtype)
        self.memories_per_layer = self.param(
            'memories_per_layer', normal(1.0), (depth, self.num_memories_per_layer, dim), self.param_dtype
        )
        self.mlp_head = NormedHead(self.num_classes, **self.precision)

    def __call__(self, images: Array, train: bool = False) -> Array:
        def run(vit: ViT, images: Array, cls: Array, memories: Array) -> Array:
            tokens = vit.embed(images, train)
            if self.is_initializing() and vit.num_classes > 0:
                vit.classify(tokens)
            mask = jnp.asarray(memory_mask(tokens.shape[1], self.num_memories_per_layer))
            return vit.encode(vit.prepend(cls, tokens), train, mask, memories)

        frozen = nn.map_variables(run, 'params', jax.lax.stop_gradient, init=self.is_initializing())
        # upstream: the adapter's class token gets no position.
        cls = rearrange(self.memory_cls_token, 'd -> 1 d')
        return self.mlp_head(frozen(self.vit, images, cls, self.memories_per_layer)[:, 0])

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return self.vit.example_input()

    torch_only = {'attn_mask': lambda model: memory_mask(model.vit.num_positions, model.num_memories_per_layer)}


CARD = ModelCard(
    ViT,
    title='Fine-tuning Image Transformers using Learnable Memory',
    arxiv='2203.15243',
    takes='image [b h w c]',
    paper_size=published_size(32, 768, 12, 12),
)
