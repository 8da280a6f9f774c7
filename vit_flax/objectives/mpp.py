"""Masked patch prediction, appendix B.1.2 of An Image is Worth 16x16 Words, arXiv:2010.11929.

vit-pytorch's `mpp`: some patches are replaced by a learned one or by another of the image, and the encoder predicts
the mean colour of the original, each channel in a few bits, as one of a few hundred classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.averages import mean_of_each
from vit_flax.blocks.checks import pair
from vit_flax.blocks.precision import repeat, to_float32
from vit_flax.blocks.torch_like import Dense
from vit_flax.objectives.encoder import (
    EncoderObjective,
    check_encoder,
    gather_tokens,
    mask_from_indices,
    patch_embedding_ties,
    scatter_tokens,
)
from vit_flax.weights.ops import UnitAxes

Colours = Sequence[float]


def draw_corruption(
    rng: Array,
    batch: int,
    num_patches: int,
    mask_prob: float = 0.15,
    replace_prob: float = 0.5,
    random_patch_prob: float = 0.5,
) -> dict[str, Any]:
    """How patches are corrupted.

    Returns:
      `masked`: int `[b m]`, the patches whose colour is predicted, a fraction of `mask_prob`, rounded up.
      `replaced`: bool `[b n]`, which of them become the learned patch, with probability `replace_prob`.
      `randomised`: bool `[b n]`, which of the others become another patch, with the probability that makes these a
        fraction of `random_patch_prob` of all masked ones, as far as there are others.
      `sources`: int `[b n]`, the index of that patch.

    Raises:
      ValueError: a probability out of range.
    """
    check_probabilities(mask_prob, replace_prob, random_patch_prob)
    mask_rng, replace_rng, random_rng, source_rng = jax.random.split(rng, 4)
    shape = batch, num_patches
    order = jnp.argsort(jax.random.uniform(mask_rng, shape), axis=1)
    of_the_others = random_patch_prob / (1 - replace_prob) if replace_prob < 1 else 0.0
    return {
        'masked': order[:, : math.ceil(mask_prob * num_patches)],
        'replaced': jax.random.uniform(replace_rng, shape) < replace_prob,
        'randomised': jax.random.uniform(random_rng, shape) < of_the_others,
        'sources': jax.random.randint(source_rng, shape, 0, num_patches),
    }


def check_probabilities(mask_prob: float, replace_prob: float, random_patch_prob: float) -> None:
    if not 0 < mask_prob <= 1:
        raise ValueError(f'mask_prob={mask_prob} must be above 0 and at most 1')
    for name, probability in (('replace_prob', replace_prob), ('random_patch_prob', random_patch_prob)):
        if not 0 <= probability <= 1:
            raise ValueError(f'{name}={probability} must be between 0 and 1')


class MPP(EncoderObjective, kw_only=True):
    """Masked patch prediction (arXiv:2010.11929): images `[b h w c]` to the cross-entropy of the colours.

    Attributes:
      transformer: the model to train; see `vit_flax.objectives.encoder`. Its variables are under `encoder`.
      patch_size: of the model's patches, in pixels.
      dim: width of the model's tokens.
      output_channel_bits: bits of the mean of each channel; with three channels and 3 bits there are 512 colours.
      channels: of the images.
      max_pixel_val: of the images, without the normalisation by `mean` and `std`.
      mask_prob: fraction of the patches whose colour is predicted.
      replace_prob: fraction of these that is replaced by a learned patch.
      random_patch_prob: fraction of these that is replaced by another patch of the image; the rest stays as it is.
      mean, std: of each channel, if the images were normalised by them.
      mask_embedding: learn the token of a replaced patch, as in the paper, and not its pixels.

    Raises:
      ValueError: an encoder that does not offer its patches, sizes that are not the encoder's, a probability out of
        range, more than 2**24 colours.
    """

    transformer: Any
    patch_size: int | Sequence[int]
    dim: int
    output_channel_bits: int = 3
    channels: int = 3
    max_pixel_val: float = 1.0
    mask_prob: float = 0.15
    replace_prob: float = 0.5
    random_patch_prob: float = 0.5
    mean: Colours | None = None
    std: Colours | None = None
    mask_embedding: bool = False

    encoder_argument: ClassVar[str] = 'transformer'

    PAPER: ClassVar[Mapping[str, Any]] = dict(
        mask_prob=0.5, replace_prob=0.8, random_patch_prob=0.1, mask_embedding=True
    )

    @classmethod
    def paper(cls, encoder: Any, **changes: Any) -> Self:
        """The paper's (appendix B.1.2): half of the patches, 80 % of them replaced by a learned token in the place of
        the embedded patch, 10 % by other patches."""
        check_encoder(encoder)
        sizes = dict(patch_size=encoder.grid.patch, dim=encoder.dim, channels=encoder.channels)
        return cls(transformer=encoder, **{**cls.PAPER, **sizes, **changes})

    def setup(self) -> None:
        super().setup()
        encoder, lengths = self.encoder, tuple(self.encoder.grid.patch)
        given = pair(self.patch_size, 'patch_size') if isinstance(self.patch_size, int) else tuple(self.patch_size)
        for name, mine, theirs in (
            ('patch_size', given, lengths),
            ('dim', self.dim, encoder.dim),
            ('channels', self.channels, encoder.channels),
        ):
            if mine != theirs:
                raise ValueError(f'{name}={mine} must be {theirs}, as the encoder has it')
        check_probabilities(self.mask_prob, self.replace_prob, self.random_patch_prob)
        if self.output_channel_bits * self.channels > 24:
            raise ValueError(
                f'output_channel_bits={self.output_channel_bits} with channels={self.channels} makes '
                f'2**{self.output_channel_bits * self.channels} colours: they must be at most 2**24'
            )
        width = self.dim if self.mask_embedding else self.channels * math.prod(lengths)
        self.mask_token = self.param('mask_token', normal(1.0), (width,), self.param_dtype)
        self.to_bits = Dense(2 ** (self.output_channel_bits * self.channels), **self.precision)

    def draw(self, rng: Array, images: Array) -> dict[str, Any]:
        """The draws for these images, as the settings say."""
        probabilities = self.mask_prob, self.replace_prob, self.random_patch_prob
        return draw_corruption(rng, len(images), math.prod(self.grid_of(images)), *probabilities)

    def bins(self, images: Array) -> Array:
        """Bin of the mean of each patch and channel, int `[b h w c] -> [b n c]`."""
        images = to_float32(images)
        if self.mean is not None and self.std is not None:
            images = images * jnp.asarray(self.std, images.dtype) + jnp.asarray(self.mean, images.dtype)
        # upstream: values above the largest are brought down to it, those below zero are left as they are.
        patches = self.encoder.grid.patchify(jnp.minimum(images, self.max_pixel_val))
        means = rearrange(patches, 'b n (p c) -> b n p c', c=self.channels).mean(axis=2)
        count = 2**self.output_channel_bits
        return jnp.searchsorted(jnp.asarray(np.arange(1, count) * self.max_pixel_val / count, means.dtype), means)

    def labels(self, images: Array) -> Array:
        """The bins of all channels as one class, the first channel the lowest digit, int `[b h w c] -> [b n]`."""
        digits = 2 ** (self.output_channel_bits * np.arange(self.channels))
        return (self.bins(images) * digits).sum(axis=-1)

    def predict(
        self,
        images: Array,
        masked: Array,
        replaced: Array,
        randomised: Array,
        sources: Array,
        train: bool = False,
    ) -> Array:
        """Logits of the colours of the masked patches, `[b m classes]`."""
        patches = self.encoder.grid.patchify(images)
        mask = mask_from_indices(masked, patches.shape[1])
        patches = jnp.where((mask & randomised)[..., None], gather_tokens(patches, sources), patches)
        # upstream: the fraction of patches that become others is divided by that of those that are not replaced, and
        # a patch that is drawn for both is replaced.
        learned = (mask & replaced)[..., None]
        if not self.mask_embedding:
            patches, mask_token = self.promote(patches, self.mask_token)
            patches = jnp.where(
                learned, repeat(mask_token, 'd -> b n d', b=patches.shape[0], n=patches.shape[1]), patches
            )
        tokens = self.encoder.embed_tokens(patches)
        if self.mask_embedding:
            tokens, mask_token = self.promote(tokens, self.mask_token)
            tokens = jnp.where(learned, repeat(mask_token, 'd -> b n d', b=tokens.shape[0], n=tokens.shape[1]), tokens)
        # upstream: with its own ViT MPP raises an error, since class token and positions of that have no batch axis any
        # more; here it runs, and an encoder may do without a class token.
        tokens = self.place(tokens, self.grid_of(images))
        encoded = self.encode(tokens, class_token=True, train=train)
        return self.to_bits(gather_tokens(encoded[:, -tokens.shape[1] :], masked))

    def draws(self, images: Array, *given: Array | None) -> tuple[Array, Array, Array, Array]:
        """Those of the caller, or new ones from the rng `mask`."""
        if all(array is None for array in given):
            given = tuple(self.draw(self.make_rng('mask'), images).values())
        if any(array is None for array in given):
            raise ValueError('masked, replaced, randomised and sources must be given all, or none of them')
        return given  # type: ignore[return-value]

    def __call__(
        self,
        images: Array,
        masked: Array | None = None,
        replaced: Array | None = None,
        randomised: Array | None = None,
        sources: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Cross-entropy of the colours of the masked patches, a scalar.

        Args:
          images: `[b h w c]`.
          masked, replaced, randomised, sources: see `draw_corruption`; drawn from the rng `mask` if left out.
          train: dropout.
        """
        return self.losses(images, masked, replaced, randomised, sources, train).mean()

    def losses(
        self,
        images: Array,
        masked: Array | None = None,
        replaced: Array | None = None,
        randomised: Array | None = None,
        sources: Array | None = None,
        train: bool = False,
    ) -> Array:
        """The cross-entropy of each image, `[b]`; arguments as for the call."""
        self.initialise_encoder(images)
        draws = self.draws(images, masked, replaced, randomised, sources)
        labels = jnp.take_along_axis(self.labels(images), draws[0], axis=1)
        log_probabilities = jax.nn.log_softmax(to_float32(self.predict(images, *draws, train=train)))
        return mean_of_each(-jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1))

    def reconstruct(
        self,
        images: Array,
        masked: Array | None = None,
        replaced: Array | None = None,
        randomised: Array | None = None,
        sources: Array | None = None,
        train: bool = False,
    ) -> Array:
        """The images with their masked patches in the likeliest colour, `[b h w c] -> [b h w c]`."""
        draws = self.draws(images, masked, replaced, randomised, sources)
        count = 2**self.output_channel_bits
        likeliest = self.predict(images, *draws, train=train).argmax(axis=-1)
        digits = likeliest[..., None] // count ** np.arange(self.channels) % count
        colours = (digits + 0.5) * (self.max_pixel_val / count)
        if self.mean is not None and self.std is not None:
            colours = (colours - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        patches = self.encoder.grid.patchify(images)
        painted = jnp.tile(colours, patches.shape[-1] // self.channels)
        return self.encoder.grid.unpatchify(scatter_tokens(patches, draws[0], painted), self.grid_of(images))

    torch_names = {'encoder': 'transformer', 'mask_token': ('mask_token', UnitAxes((0, 1)))}
    torch_ties = patch_embedding_ties('encoder', 'patch_to_emb.0', first=1)
