"""Post-LayerNorm Is Back: Stable, ExpressivE, and Deep, arXiv:2601.19895.

vit-pytorch's `vit_with_keel_post_ln`: a ViT whose residual stream is enlarged by a constant at each
branch and normalised after it (Keel), beside the norm before each branch. No norm has a bias, and
the first branch is added as in ViT.
"""

from collections.abc import Callable, Sequence
from functools import partial

from flax import linen as nn
from jax import Array

from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import LayerNorm
from vit_flax.card import ModelCard
from vit_flax.models import vit
from vit_flax.models.vit import ViTBase, published_size

UnbiasedNorm = partial(LayerNorm, use_bias=False)


class KeelTransformer(Module):
    """`depth` attentions and feed-forward networks: x becomes norm(scale * x + branch(x)).

    Attributes:
      depth: attentions, and as many feed-forward networks.
      attention: constructor; takes a name.
      feedforward: constructor; takes a name.
      residual_scale: what the residual stream is multiplied with.
    """

    depth: int
    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    residual_scale: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i in range(self.depth):
            y = self.attention(name=f'attention_{i}')(x, train=train)
            x = x + y if i == 0 else self.join(x, y, 2 * i - 1)
            x = self.join(x, self.feedforward(name=f'feedforward_{i}')(x, train=train), 2 * i)
            x = self.tap('block', x)
        return x

    def join(self, x: Array, y: Array, number: int) -> Array:
        return UnbiasedNorm(**self.precision, name=f'post_norm_{number}')(y + self.residual_scale * x)

    torch_names = {
        'attention_{i}': 'layers.{2*i}',
        'feedforward_{i}': 'layers.{2*i+1}',
        'post_norm_{i}': 'post_norms.{i}',
    }


class ViT(ViTBase, kw_only=True):
    """ViT with Keel's residual stream (arXiv:2601.19895): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      pool: 'cls' classifies the class token, 'mean' the average token (there is no class token then).
      keel_residual_scale: what the residual stream is multiplied with at each branch; None: the
        number of branches, 2 * depth.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    keel_residual_scale: float | None = None
    pool: str = 'cls'

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_cls_tokens(self) -> int:
        return 1 if self.pool == 'cls' else 0

    def attention(self) -> Callable[..., nn.Module]:
        return partial(super().attention(), norm=UnbiasedNorm)

    def feedforward(self) -> Callable[..., nn.Module]:
        return partial(super().feedforward(), norm=UnbiasedNorm)

    def trunk(self) -> nn.Module:
        if self.depth < 2:
            raise ValueError(f'depth={self.depth} must be at least 2')
        scale = 2.0 * self.depth if self.keel_residual_scale is None else self.keel_residual_scale
        return KeelTransformer(self.depth, self.attention(), self.feedforward(), scale, **self.precision)

    torch_only = vit.ViT.torch_only


CARD = ModelCard(
    ViT,
    title='Post-LayerNorm Is Back: Stable, ExpressivE, and Deep',
    arxiv='2601.19895',
    takes='image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
)
