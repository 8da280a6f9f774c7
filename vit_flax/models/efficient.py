"""A ViT around any transformer; upstream module `efficient`, which has no paper.

vit-pytorch's `efficient`: patch embedding, class token, positions and head are ViT's, the encoder
between them is an argument. With attention that is linear in the number of tokens, such as
Nystromformer (arXiv:2102.03902), it takes images of thousands of pixels a side.
"""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_choice
from vit_flax.blocks.class_token import ClassTokenAndPositions
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.card import ModelCard
from vit_flax.models.vit import NormedHead
from vit_flax.transformers.nystromformer import Nystromformer


class ViT(Backbone, kw_only=True):
    """ViT with a transformer of the caller's: images `[b h w c]` to logits `[b num_classes]`.

    A smaller image than `image_size` takes the first rows of the position table, as upstream does.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      num_classes: width of the logits.
      dim: width of a token.
      transformer: a module called as `transformer(tokens, train=train)` with tokens `[b n d]`, which it
        returns in the same shape: one of `vit_flax.transformers`, or any other.
      pool: 'cls' classifies the class token, 'mean' the average of all tokens, the class token among them.
      channels: of the images.

    Raises:
      ValueError: patches do not tile the image, unknown pool, images of another layout or larger than the
        position table.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_classes: int
    dim: int
    transformer: nn.Module
    pool: str = 'cls'
    channels: int = 3

    head = ('mlp_head/linear',)

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_prefix_tokens(self) -> int:
        return 1

    def setup(self) -> None:
        check_choice('pool', self.pool, ('cls', 'mean'))
        self.to_patch_embedding = PatchEmbedding(self.patch_size, self.dim, **self.precision)
        self.positions = ClassTokenAndPositions(self.grid.shape, self.image_size, **self.precision)
        self.mlp_head = NormedHead(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, class token first, `[b h w c] -> [b 1+n d]`."""
        self.grid.check(images)
        x = self.to_patch_embedding(images)
        return self.tap('embedding', self.positions(x, train))

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, train=train)

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        x = tokens[:, 0] if self.pool == 'cls' else tokens.mean(axis=1)
        return self.mlp_head(self.tap('to_latent', x))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded tokens without classes."""
        tokens = self.encode(self.embed(images, train), train)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    torch_names = {'positions': ''}


CARD = ModelCard(
    ViT,
    title='vit-pytorch: efficient attention',
    arxiv='https://github.com/lucidrains/vit-pytorch#efficient-attention',
    takes='image [b h w c]',
    paper_size=dict(
        image_size=2048,
        patch_size=32,
        num_classes=1000,
        dim=512,
        transformer=Nystromformer(dim=512, depth=12, heads=8, num_landmarks=256),
    ),
)
