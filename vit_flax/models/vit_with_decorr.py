"""Decorrelation Speeds Up Vision Transformers, arXiv:2510.14657.

vit-pytorch's `vit_with_decorr`: a ViT that returns, besides the logits, how correlated the channels
are in front of its layers. The paper decorrelates by matrices with an update rule of their own;
here it is a loss to be added to the task's.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import orthogonal

from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import no_norm
from vit_flax.blocks.torch_like import LayerNorm
from vit_flax.blocks.transformer import FeedForward, Remat, check_layout, rematerialised
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase, published_size


def draw_sample(rng: Array, shape: Sequence[int], count: int) -> Array:
    """Sampled tokens of each sequence, int `[... count]` without repetition, for `shape` `[... n]`."""
    return jnp.argsort(jax.random.uniform(rng, tuple(shape)), axis=-1)[..., :count]


class DecorrelationLoss(Module):
    """Mean square of the correlations between different channels, `[... b n d] -> []`.

    Summed over the leading axes (layers), averaged over the batch.

    Attributes:
      sample_frac: fraction of the tokens that is sampled.
      soft_validate_num_sampled: with fewer than two tokens the loss is 0 instead of an error.
      use_subspace: decorrelate random projections of the channels, fixed at initialisation.
      dim: width of a token; needed for the projections.
      dim_subspace: width of a projection.
      num_subspaces: how many projections.
      mean_center: subtract the average token first: covariances instead of correlations.
      across_depth: the tokens are the layers' outputs at one position; then all are used.

    Raises:
      ValueError: a share outside of [0, 1] or of fewer than two tokens, projections of unknown or
        no smaller width.
    """

    sample_frac: float = 1.0
    soft_validate_num_sampled: bool = False
    use_subspace: bool = False
    dim: int | None = None
    dim_subspace: int = 64
    num_subspaces: int = 1
    mean_center: bool = False
    across_depth: bool = False

    def setup(self) -> None:
        if self.use_subspace:
            if self.dim is None or self.dim_subspace >= self.dim:
                raise ValueError(
                    f'use_subspace=True needs the width of the tokens: dim={self.dim} must be above '
                    f'dim_subspace={self.dim_subspace}'
                )
            self.proj = self.variable('constants', 'proj', self._projections)

    def _projections(self) -> Array:
        rngs = jax.random.split(self.make_rng('params'), self.num_subspaces)
        shape = self.dim, self.dim_subspace
        return jnp.stack([orthogonal()(rng, shape, jnp.float32) for rng in rngs])

    def declare(self) -> None:
        """Makes sure that the projections are among the variables."""

    def __call__(self, tokens: Array, train: bool = False, sampled_tokens: Array | None = None) -> Array:
        """The loss.

        Args:
          tokens: `[... b n d]`.
          train: without effect.
          sampled_tokens: int `[... b m]`, the sampled tokens; drawn from the rng `tokens`,
            in evaluation too, if `sample_frac` is below 1 and left out here (see `draw_sample`).
        """
        if sampled_tokens is None and self.sample_frac < 1 and not self.across_depth:
            count = int(tokens.shape[-2] * self.sample_frac)
            if count < 2 and not self.soft_validate_num_sampled:
                raise ValueError(
                    f'sample_frac={self.sample_frac} of {tokens.shape[-2]} tokens is {count}: it must be at least 2, '
                    'or soft_validate_num_sampled=True'
                )
            if count < 2:
                return jnp.zeros((), tokens.dtype)
            sampled_tokens = draw_sample(self.make_rng('tokens'), tokens.shape[:-1], count)
        if sampled_tokens is not None:
            tokens = jnp.take_along_axis(tokens, sampled_tokens[..., None], axis=-2)
        tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
        if self.use_subspace:
            tokens = jnp.einsum('... b n d, s d f -> ... b s n f', tokens, self.proj.value)
        else:
            tokens = rearrange(tokens, '... b n d -> ... b 1 n d')
        if self.mean_center:
            tokens = tokens - tokens.mean(axis=-2, keepdims=True)
        count, width = tokens.shape[-2:]
        products = jnp.einsum('... n d, ... n f -> ... d f', tokens, tokens) / count
        others = 1 - jnp.eye(width, dtype=products.dtype)
        loss = (products**2 * others).sum(axis=(-3, -2, -1)) / (width * (width - 1))
        return loss.sum(axis=tuple(range(loss.ndim - 1))).mean()


class OpenBlock(Module):
    """A block that also returns the inputs and the outputs of its two branches, `[2 b n d]` each."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array, Array]:
        seen, given = [], []
        for name, branch in (('attention', self.attention), ('feedforward', self.feedforward)):
            seen.append(LayerNorm(**self.precision, name=f'{name}_norm')(x))
            given.append(branch(name=name)(seen[-1], train=train))
            x = x + given[-1]
        return self.tap('block', x), jnp.stack(seen), jnp.stack(given)

    torch_names = {
        'attention_norm': '0.norm',
        'attention': '0',
        'feedforward_norm': '1.norm',
        # there the norm is outside of the sequence
        'feedforward': ('1', {'expand': 'net.0', 'contract': 'net.3'}),
    }


class OpenTransformer(Module):
    """`depth` blocks and a norm, `[b n d] -> [b n d]`, with inputs and outputs of all branches, `[2*depth b n d]`."""

    depth: int
    block: Callable[..., nn.Module]
    scan: bool
    remat: Remat

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array, Array]:
        def step(block: nn.Module, x: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            x, seen, given = block(x, train=train)
            return x, (seen, given)

        check_layout(self, self.scan)
        step = rematerialised(step, self.remat, self.scan)
        if self.scan:
            step = nn.scan(step, variable_axes={True: 0}, split_rngs={True: True}, length=self.depth)
            x, branches = step(self.block(name='block'), x, None)
        else:
            layers = []
            for i in range(self.depth):
                x, layer = step(self.block(name=f'block_{i}'), x, None)
                layers.append(layer)
            branches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        seen, given = (rearrange(each, 'l two b n d -> (l two) b n d') for each in branches)
        return LayerNorm(**self.precision, name='norm')(x), seen, given

    torch_names = {'block_{i}': 'layers.{i}'}


class ViT(ViTBase, kw_only=True):
    """ViT with a decorrelation loss (arXiv:2510.14657): images `[b h w c]` to logits `[b num_classes]` and the loss.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      decorr_sample_frac: fraction of the tokens in the loss; 0 turns it off.
      decorr_use_subspace: decorrelate random projections of the channels, fixed at initialisation.
      decorr_dim_subspace: width of a projection.
      decorr_num_subspaces: how many projections.
      decorr_mean_center: subtract the average token first.
      decorr_layer_outputs_across_depth: decorrelate, at each position, the outputs of all layers instead of
        at the normalised inputs of each layer.
      pool: 'cls' classifies the class token, 'mean' the average of all tokens.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    decorr_sample_frac: float = 1.0
    decorr_use_subspace: bool = False
    decorr_dim_subspace: int = 64
    decorr_num_subspaces: int = 1
    decorr_mean_center: bool = False
    decorr_layer_outputs_across_depth: bool = False
    pool: str = 'cls'
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def setup(self) -> None:
        if self.depth == 0:
            raise ValueError('depth=0 must be at least 1: the loss is of the inputs of the blocks')
        super().setup()
        if self.decorr_sample_frac > 0:
            self.decorr_loss = DecorrelationLoss(
                self.decorr_sample_frac,
                use_subspace=self.decorr_use_subspace,
                dim=self.dim,
                dim_subspace=self.decorr_dim_subspace,
                num_subspaces=self.decorr_num_subspaces,
                mean_center=self.decorr_mean_center,
                across_depth=self.decorr_layer_outputs_across_depth,
                **self.precision,
            )

    def block(self) -> Callable[..., nn.Module]:
        attention = partial(self.attention(), norm=no_norm)
        feedforward = partial(FeedForward, self.mlp_dim, self.dropout, norm=no_norm, **self.precision)
        return partial(OpenBlock, attention, feedforward, **self.precision)

    def trunk(self) -> nn.Module:
        return OpenTransformer(self.depth, self.block(), self.scan, self.remat, **self.precision)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        return self.transformer(tokens, train=train)[0]

    def __call__(  # type: ignore[override]
        self,
        images: Array,
        train: bool = False,
        return_decorr_aux_loss: bool | None = None,
        sampled_tokens: Array | None = None,
    ) -> tuple[Array, Array]:
        """Images to logits and the loss.

        Args:
          images: `[b h w c]`.
          train: dropout.
          return_decorr_aux_loss: compute the loss, otherwise it is 0; None: when training.
          sampled_tokens: int `[2*depth b m]`, the tokens in the loss; drawn from the rng
            `tokens` if `decorr_sample_frac` is below 1 and left out here (see `draw_sample`).
        """
        x, seen, given = self.transformer(self.embed(images, train), train=train)
        logits = self.classify(x, train) if self.num_classes > 0 else x
        loss = jnp.zeros((), logits.dtype)
        if self.decorr_sample_frac > 0:
            self.decorr_loss.declare()
            if train if return_decorr_aux_loss is None else return_decorr_aux_loss:
                across = self.decorr_layer_outputs_across_depth
                inputs = rearrange(given, 'l b n d -> n b l d') if across else seen
                loss = self.decorr_loss(inputs, sampled_tokens=sampled_tokens)
        return logits, loss

    torch_names = BATCH_AXES


CARD = ModelCard(
    ViT,
    title='Decorrelation Speeds Up Vision Transformers',
    arxiv='2510.14657',
    takes='image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
)
