"""nGPT: Normalized Transformer with Representation Learning on the Hypersphere, arXiv:2410.01131.

vit-pytorch's `normalized_vit`: every token, and every row or column of a weight matrix, has length
one. A branch does not add to its token but turns it towards its own result, by a learned rate for
each channel; there is no other norm, no bias and no class token. `nViT.post_update` brings the stored
weights back to length one after a step of the optimizer.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from einops import rearrange
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.nn.initializers import constant, ones

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import unit_length
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import multiply, to_float32
from vit_flax.blocks.torch_like import matmul, silu, uniform_by_fan_in
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import Permute
from vit_flax.card import ModelCard

STORED = 'linear.parametrizations.weight.original'
# Modules whose kernels have length one along the outputs; that of the others runs along the inputs.
ALONG_OUTPUTS = ('to_out', 'to_patch_embedding')


def unit_kernel(kernel: Array, module: str) -> Array:
    """The kernel `[... c d]` of the module of this name, its vectors of length one."""
    return unit_length(kernel) if module in ALONG_OUTPUTS else unit_length(kernel.mT).mT


class NormDense(Module):
    """Linear map by a kernel whose vectors have length one, without bias, `[... c] -> [... features]`."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        kernel = self.param('kernel', uniform_by_fan_in(width), (width, self.features), self.param_dtype)
        x, kernel = self.promote(x, unit_kernel(kernel, str(self.name)).astype(kernel.dtype))
        return matmul(x, kernel)

    torch_names = {'kernel': (STORED, Permute((1, 0)))}


class NormPositions(Module):
    """A position of length one for each patch, `[patches dim]`."""

    patches: int
    dim: int

    @nn.compact
    def __call__(self) -> Array:
        init = uniform_by_fan_in(self.dim)
        return unit_length(self.param('embedding', init, (self.patches, self.dim), self.param_dtype))

    torch_names = {'embedding': STORED}


class Attention(Module):
    """Attention of queries and keys of length one, `[b n d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        project = partial(NormDense, self.heads * self.dim_head, **self.precision)
        q, k, v = (split_heads(project(name=name)(x), self.heads) for name in ('to_q', 'to_k', 'to_v'))
        init, shape = constant(self.dim_head**0.25), (self.heads, 1, self.dim_head)
        q_scale = self.param('q_scale', init, shape, self.param_dtype)
        k_scale = self.param('k_scale', init, shape, self.param_dtype)
        q, k = (self.cast(unit_length(t) * to_float32(factor), t, factor) for t, factor in ((q, q_scale), (k, k_scale)))
        x = attend(self, q, k, v, scale=1.0, dropout=self.dropout, train=train)
        return NormDense(dim, **self.precision, name='to_out')(merge_heads(x))


class FeedForward(Module):
    """Linear, gated by SiLU, Dropout, Linear, `[b n d] -> [b n d]`; two thirds of `hidden_dim` wide."""

    hidden_dim: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, inner = x.shape[-1], int(self.hidden_dim * 2 / 3)
        hidden = NormDense(inner, **self.precision, name='to_hidden')(x)
        gate = NormDense(inner, **self.precision, name='to_gate')(x)
        hidden_scale = self.param('hidden_scale', ones, (inner,), self.param_dtype)
        gate_scale = self.param('gate_scale', ones, (inner,), self.param_dtype)
        hidden, gate, hidden_scale, gate_scale = self.promote(hidden, gate, hidden_scale, gate_scale)
        x = silu(multiply(gate, gate_scale) * dim**0.5) * multiply(hidden, hidden_scale)
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        return NormDense(dim, **self.precision, name='to_out')(x)


class LerpBlock(Module):
    """Turns each token towards what attention, then the feed-forward network make of it."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        for name, branch in (('attention', self.attention), ('feedforward', self.feedforward)):
            # stored small, so that the optimizer changes it in the measure of the other weights
            rate = self.param(f'{name}_rate', constant(self.rate / dim**0.5), (dim,), self.param_dtype)
            before = to_float32(x)
            step = unit_length(branch(name=name)(x, train=train)) - before
            x = self.cast(unit_length(before + to_float32(rate) * dim**0.5 * step), x, rate)
        return self.tap('block', x)

    torch_names = {'attention': '0', 'feedforward': '1'}


class nViT(Backbone, kw_only=True):
    """Normalised ViT (arXiv:2410.01131): images `[b h w c]` to logits `[b num_classes]`.

    A smaller image than `image_size` takes the first rows of the position table, as upstream does.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      num_classes: width of the logits.
      dim: width of a token.
      depth: number of blocks.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks, of which the gated ones have two thirds.
      dropout: rate on the attention maps and the hidden units.
      channels: of the images.
      dim_head: width of one head.
      residual_lerp_scale_init: initial rate at which a token turns; 1 / depth if None.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile the image, images of another layout or larger than the position table.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_classes: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    dropout: float = 0.0
    channels: int = 3
    dim_head: int = 64
    residual_lerp_scale_init: float | None = None
    scan: bool = False
    remat: Remat = False

    head = ('to_pred', 'logit_scale')

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def setup(self) -> None:
        self.to_patch_embedding = NormDense(self.dim, **self.precision)
        self.abs_pos_emb = NormPositions(self.grid.num_patches, self.dim, **self.precision)
        rate = 1 / max(self.depth, 1) if self.residual_lerp_scale_init is None else self.residual_lerp_scale_init
        block = partial(
            LerpBlock,
            attention=partial(Attention, self.heads, self.dim_head, self.dropout, **self.precision),
            feedforward=partial(FeedForward, self.mlp_dim, self.dropout, **self.precision),
            rate=rate,
            **self.precision,
        )
        self.transformer = Transformer(self.depth, block, scan=self.scan, remat=self.remat)
        self.to_pred = NormDense(self.num_classes, **self.precision)
        if self.num_classes > 0:
            self.logit_scale = self.param('logit_scale', ones, (self.num_classes,), self.param_dtype)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, of length one, `[b h w c] -> [b n d]`."""
        self.grid.check(images)
        p, q = self.grid.patch
        self.grid.warn_of_other_grid(self.grid.shape_of(images))
        x = self.to_patch_embedding(rearrange(images, 'b (h p) (w q) c -> b (h w) (c p q)', p=p, q=q))
        positions = self.abs_pos_emb()
        self.grid.check_num_positions(x.shape[1])
        x = self.cast(unit_length(to_float32(x) + positions[: x.shape[1]]), x)
        return self.tap('embedding', x)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, train=train)

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        logits, scale = self.promote(self.to_pred(self.tap('to_latent', tokens.mean(axis=1))), self.logit_scale)
        return multiply(logits, scale) * self.dim**0.5

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded tokens without classes."""
        tokens = self.encode(self.embed(images, train), train)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    def post_update(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables with all stored weights of length one, to be used after each step of the optimizer.

        The model computes the same with them, for it normalises them at every use.
        """
        leaves = flatten_dict(variables['params'])
        for path, leaf in leaves.items():
            if path[-1] == 'kernel':
                leaves[path] = unit_kernel(leaf, path[-2]).astype(leaf.dtype)
            elif path[-1] == 'embedding':
                leaves[path] = unit_length(leaf).astype(leaf.dtype)
        return {**variables, 'params': unflatten_dict(leaves)}

    def position_tables(self) -> dict[str, PositionTable]:
        return {'abs_pos_emb/embedding': PositionTable(self.grid.shape)}

    torch_names = {
        'to_patch_embedding': 'to_patch_embedding.1',
        'transformer': '',
        'transformer/block_{i}/attention_rate': 'residual_lerp_scales.{i}.0',
        'transformer/block_{i}/feedforward_rate': 'residual_lerp_scales.{i}.1',
    }


CARD = ModelCard(
    nViT,
    title='nGPT: Normalized Transformer with Representation Learning on the Hypersphere',
    arxiv='2410.01131',
    takes='image [b h w c]',
    paper_size=dict(image_size=256, patch_size=16, num_classes=1000, dim=1024, depth=6, heads=8, mlp_dim=2048),
)
