"""Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377.

vit-pytorch's `mae`: the encoder gets a quarter of the patches; a small transformer, the decoder, gets its output
and a mask token for each masked patch, and predicts the pixels of those.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.averages import mean_of_each
from vit_flax.blocks.positions import sincos_grid
from vit_flax.blocks.precision import repeat, take_rows, to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, FeedForward, Transformer
from vit_flax.objectives.encoder import (
    EncoderObjective,
    gather_tokens,
    has_class_token,
    patch_embedding_ties,
    scatter_tokens,
)
from vit_flax.objectives.masking import Masking, check_masking, masked_count, random_split, tube_split


def draw_mask(rng: Array, batch: int, num_patches: int, masking_ratio: float = 0.75) -> dict[str, Any]:
    """Indices of the masked patches of each image, `masked` int `[b m]`, and of all others, `visible` `[b n-m]`."""
    masked, visible = random_split(rng, batch, num_patches, masking_ratio)
    return {'masked': masked, 'visible': visible}


def draw_tube_mask(rng: Array, batch: int, grid: Sequence[int], masking_ratio: float = 0.75) -> dict[str, Any]:
    """The same for videos: the same positions at every step of `grid` = (steps, rows, columns).

    Neighbouring frames are alike, so that a patch masked in one of them alone could be copied (arXiv:2203.12602).
    """
    masked, visible = tube_split(rng, batch, grid, masking_ratio)
    return {'masked': masked, 'visible': visible}


class MAE(EncoderObjective, kw_only=True):
    """Masked autoencoder (arXiv:2111.06377): images `[b h w c]` to the error of the predicted pixels.

    Attributes:
      encoder: the model to train; see `vit_flax.objectives.encoder`.
      decoder_dim: width of the decoder's tokens.
      masking_ratio: fraction of the patches that is masked.
      decoder_depth: number of blocks of the decoder.
      decoder_heads: attention heads of each of its blocks.
      decoder_dim_head: width of one of these heads.
      norm_pixels: predict the pixels of each patch standardised by its mean and standard deviation, as the paper does
        in its best models.
      class_token: encoder and decoder get the encoder's class token too, as in the paper.
      decoder_positions: position embeddings of the decoder, 'learned', or 'sincos', fixed, as in the paper.
      decoder_qkv_bias: a bias on its queries, keys and values, as in the authors' code.
      decoder_norm_eps: epsilon of its norms; 1e-6 in the authors' code.
      masking: which patches are masked, 'random' ones or, for videos, the same positions at every step, 'tube'
        (arXiv:2203.12602).

    Raises:
      ValueError: an encoder that does not offer its patches, a ratio that masks none or all of them, a class token
        that the encoder does not have, tubes in what is no video.
    """

    encoder: Any
    decoder_dim: int
    masking_ratio: float = 0.75
    decoder_depth: int = 1
    decoder_heads: int = 8
    decoder_dim_head: int = 64
    norm_pixels: bool = False
    class_token: bool = False
    decoder_positions: Literal['learned', 'sincos'] = 'learned'
    decoder_qkv_bias: bool = False
    decoder_norm_eps: float = 1e-5
    masking: Masking = 'random'

    PAPER: ClassVar[Mapping[str, Any]] = dict(
        decoder_dim=512,
        decoder_depth=8,
        decoder_heads=16,
        decoder_dim_head=32,
        norm_pixels=True,
        decoder_positions='sincos',
    )

    @classmethod
    def paper(cls, encoder: nn.Module, **changes: Any) -> Self:
        """The paper's: decoder of 8 blocks and width 512 (table 1 a, b), 75 % masked (figure 5), normalised pixels
        (table 1 d); sine-cosine positions, and a class token if the encoder has one (appendix A.1)."""
        settings = {**cls.PAPER, 'class_token': has_class_token(encoder)}
        return cls(encoder=encoder, **{**settings, **changes})

    def setup(self) -> None:
        super().setup()
        encoder, width, prefix = self.encoder, self.decoder_dim, self.prefix_length(self.class_token)
        masked_count(self.masking_ratio, encoder.grid.num_patches)
        if self.norm_pixels and encoder.grid.patch_dim == 1:
            raise ValueError('norm_pixels=True: patches of a single element have no standard deviation')
        check_masking(self.masking, encoder.grid.patch)
        if encoder.dim != width:
            self.enc_to_dec = Dense(width, **self.precision)
        self.mask_token = self.param('mask_token', normal(1.0), (width,), self.param_dtype)
        norm = partial(LayerNorm, epsilon=self.decoder_norm_eps)
        attention = partial(
            Attention,
            self.decoder_heads,
            self.decoder_dim_head,
            norm=norm,
            qkv_bias=self.decoder_qkv_bias,
            **self.precision,
        )
        feedforward = partial(FeedForward, 4 * width, norm=norm, **self.precision)
        block = partial(Block, attention, feedforward, **self.precision)
        self.decoder = Transformer(self.decoder_depth, block, partial(norm, **self.precision), **self.precision)
        if self.decoder_positions == 'learned':
            # upstream: the decoder's table has a row for the encoder's class token, which no patch reads.
            shape = max(encoder.num_positions, prefix + encoder.grid.num_patches), width
            self.decoder_pos_emb = self.param('decoder_pos_emb', normal(1.0), shape, self.param_dtype)
        self.to_pixels = Dense(encoder.grid.patch_dim, **self.precision)

    def draw(self, rng: Array, images: Array) -> dict[str, Any]:
        """`masked` and `visible` for these images, as `masking` and `masking_ratio` say."""
        grid = self.grid_of(images)
        if self.masking == 'tube':
            return draw_tube_mask(rng, len(images), grid, self.masking_ratio)
        return draw_mask(rng, len(images), math.prod(grid), self.masking_ratio)

    def decoder_table(self, grid: Sequence[int], prefix: int) -> Array:
        """The decoder's positions, `[prefix+n d]`: those of the encoder's prefix tokens, then those of the patches."""
        patches = math.prod(grid)
        if self.decoder_positions == 'learned':
            return self.decoder_pos_emb[: prefix + patches]
        return jnp.pad(jnp.asarray(sincos_grid(grid, self.decoder_dim)), ((prefix, 0), (0, 0)))

    def predict(self, images: Array, masked: Array, visible: Array, train: bool = False) -> Array:
        """The predicted pixels of the masked patches, in the units of the loss, `[b m p]`."""
        grid = self.grid_of(images)
        # upstream: with its own ViT and a class token MAE raises an error, since the positions of that have no batch
        # axis any more; here it runs, on the positions of the patches.
        tokens = self.place(self.encoder.embed_tokens(self.encoder.grid.patchify(images)), grid)
        encoded = self.encode(gather_tokens(tokens, visible), self.class_token, train)
        if self.encoder.dim != self.decoder_dim:
            encoded = self.enc_to_dec(encoded)

        prefix = encoded.shape[1] - visible.shape[1]
        table = self.decoder_table(grid, prefix).astype(self.mask_token.dtype)
        encoded, mask_token, table = self.promote(encoded, self.mask_token, table)
        positions = jnp.concatenate([visible, masked], axis=1) + prefix
        if prefix:
            first = jnp.broadcast_to(jnp.arange(prefix, dtype=positions.dtype), (positions.shape[0], prefix))
            positions = jnp.concatenate([first, positions], axis=1)
        mask_tokens = repeat(mask_token, 'd -> b m d', b=masked.shape[0], m=masked.shape[1])
        # the decoder knows the order of its tokens by their positions alone: they need not be sorted
        tokens = jnp.concatenate([encoded, mask_tokens], axis=1) + take_rows(table, positions)
        decoded = self.decoder(tokens, train=train)
        return self.to_pixels(decoded[:, -masked.shape[1] :])

    def draws(self, images: Array, masked: Array | None, visible: Array | None) -> tuple[Array, Array]:
        """Those of the caller, or new ones from the rng `mask`."""
        if (masked is None) != (visible is None):
            raise ValueError('masked and visible must be given both, or neither')
        if masked is None or visible is None:
            return tuple(self.draw(self.make_rng('mask'), images).values())
        return masked, visible

    def __call__(
        self, images: Array, masked: Array | None = None, visible: Array | None = None, train: bool = False
    ) -> Array:
        """Mean squared error of the masked pixels, a scalar.

        Args:
          images: `[b h w c]`.
          masked: int `[b m]`, the masked patches of each image, and
          visible: int `[b n-m]`, all others: both of `draw_mask`, or drawn from the rng `mask` if left out.
          train: dropout.
        """
        return self.losses(images, masked, visible, train).mean()

    def losses(
        self, images: Array, masked: Array | None = None, visible: Array | None = None, train: bool = False
    ) -> Array:
        """Mean squared error of the masked pixels of each image, `[b]`; arguments as for the call."""
        self.initialise_encoder(images)
        masked, visible = self.draws(images, masked, visible)
        target = to_float32(gather_tokens(self.encoder.grid.patchify(images), masked))
        if self.norm_pixels:
            mean, deviation = patch_statistics(target)
            target = (target - mean) / deviation
        return mean_of_each(jnp.square(to_float32(self.predict(images, masked, visible, train)) - target))

    def reconstruct(
        self, images: Array, masked: Array | None = None, visible: Array | None = None, train: bool = False
    ) -> Array:
        """The images with their masked patches as predicted, `[b h w c] -> [b h w c]`; arguments as for the loss.

        With `norm_pixels` a patch has the mean and the standard deviation of the original. Images of integers become
        float32, in which predictions may be below 0 or above 255.
        """
        masked, visible = self.draws(images, masked, visible)
        patches = self.encoder.grid.patchify(images)
        predicted = self.predict(images, masked, visible, train)
        if self.norm_pixels:
            mean, deviation = patch_statistics(to_float32(gather_tokens(patches, masked)))
            predicted = to_float32(predicted) * deviation + mean
        return self.encoder.grid.unpatchify(scatter_tokens(patches, masked, predicted), self.grid_of(images))

    torch_names = {'decoder_pos_emb': 'decoder_pos_emb.weight'}
    torch_ties = patch_embedding_ties('encoder', 'patch_to_emb')


def patch_statistics(patches: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each patch, `[b m p] -> [b m 1]` each, as the paper's code has them (unbiased)."""
    deviation = jnp.sqrt(patches.var(axis=-1, keepdims=True, ddof=1) + 1e-6)
    return patches.mean(axis=-1, keepdims=True), deviation
