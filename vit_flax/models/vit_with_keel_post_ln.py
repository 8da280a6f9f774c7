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
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.card import ModelCard
from vit_flax.models import vit
from vit_flax.models.vit import ViTBase, published_size

UnbiasedNorm = partial(LayerNorm, use_bias=False)


class KeelBlock(Module):
    """Attention and a feed-forward network: x becomes norm(scale * x + branch(x)) twice, `[b n d] -> [b n d]`.

    Attributes:
      attention: constructor; takes a name.
      feedforward: constructor; takes a name.
      residual_scale: what the residual stream is multiplied with.
      is_first: of the trunk: its attention is added as it is, without a norm.
    """

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    residual_scale: float
    is_first: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        y = self.attention(name='attention')(x, train=train)
        x = x + y if self.is_first else self.join(x, y, 'attention_norm')
        return self.tap('block', self.join(x, self.feedforward(name='feedforward')(x, train=train), 'feedforward_norm'))

    def join(self, x: Array, y: Array, name: str) -> Array:
        return UnbiasedNorm(**self.precision, name=name)(y + self.residual_scale * x)


class KeelTransformer(Transformer):
    """A first block, then those of a `Transformer`."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:  # type: ignore[override]
        return super().__call__(self.block(is_first=True, name='first')(x, train=train), train=train)

    torch_names = {
        'first/attention': 'layers.0',
        'first/feedforward': 'layers.1',
        'first/feedforward_norm': 'post_norms.0',
        'block_{i}/attention': 'layers.{2*i+2}',
        'block_{i}/attention_norm': 'post_norms.{2*i+1}',
        'block_{i}/feedforward': 'layers.{2*i+3}',
        'block_{i}/feedforward_norm': 'post_norms.{2*i+2}',
    }


class ViT(ViTBase, kw_only=True):
    """ViT with Keel's residual stream (arXiv:2601.19895): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      pool: 'cls' classifies the class token, 'mean' the average token (there is no class token then).
      keel_residual_scale: what the residual stream is multiplied with at each branch; None: the
        number of branches, 2 * depth.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    keel_residual_scale: float | None = None
    pool: str = 'cls'
    scan: bool = False
    remat: Remat = False

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
        block = partial(KeelBlock, self.attention(), self.feedforward(), scale, **self.precision)
        return KeelTransformer(self.depth - 1, block, scan=self.scan, remat=self.remat)

    torch_only = vit.ViT.torch_only


CARD = ModelCard(
    ViT,
    title='Post-LayerNorm Is Back: Stable, ExpressivE, and Deep',
    arxiv='2601.19895',
    takes='image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
)
