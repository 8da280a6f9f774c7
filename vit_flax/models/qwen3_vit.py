"""Qwen3-VL Technical Report, arXiv:2511.21631: its vision encoder as a classifier.

timm's `Qwen3VitClassifier`: the encoder's tokens, or the projections of squares of them, averaged and normalised.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.torch_like import LayerNorm
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.qwen3_vit_encoder import Qwen3Vit
from vit_flax.models.vision_transformer import Linear
from vit_flax.weights.timm import sizes


class Qwen3VitClassifier(Qwen3Vit, kw_only=True):
    """Qwen3-VL's vision encoder as a classifier (arXiv:2511.21631): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      num_classes: width of the logits; 0 returns the features instead.
      global_pool: what the head reads: 'avg' the mean of the tokens, '' each of them.
      encoder_pool: 'merge' projects squares of tokens first.
      final_norm: normalise what the head reads, without factors.
      drop_rate: dropout on it.
    """

    num_classes: int = 1000
    global_pool: Literal['', 'avg'] = 'avg'
    encoder_pool: Literal['', 'merge'] = ''
    final_norm: bool = True
    drop_rate: float = 0.0

    pools_without_classes: ClassVar[bool] = True

    def setup(self) -> None:
        super().setup()
        if self.final_norm:
            self.norm = LayerNorm(self.norm_eps, use_bias=False, use_scale=False, **self.precision)
        self.head_dropout = nn.Dropout(self.drop_rate)
        if self.num_classes:
            self.classifier = Linear(self.num_classes, **self.precision)

    @property
    def merges(self) -> bool:
        return self.encoder_pool == 'merge'

    @property
    def head(self) -> tuple[str, ...]:
        return ('classifier',) if self.num_classes else ()

    def classify(self, tokens: Array, train: bool = False, grid: Sequence[int] | None = None) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`; `grid` of the patches, if not that of `img_size`."""
        if self.encoder_pool == 'merge':
            rows, _ = grid or self.grid.shape
            tokens = self.merger(rearrange(tokens, 'b (h w) d -> b h w d', h=rows))
        x = tokens.mean(axis=1) if self.global_pool == 'avg' else tokens
        x = self.norm(x) if self.final_norm else x
        x = self.tap('to_latent', self.head_dropout(x, deterministic=not train))
        return self.classifier(x) if self.num_classes else x

    def __call__(self, images: Array, train: bool = False) -> Any:
        """Images to logits, `[b h w c] -> [b num_classes]`; to features `[b d]` without classes."""
        x = self.forward_features(images, train)
        return self.classify(rearrange(x, 'b h w d -> b (h w) d'), train, x.shape[1:3])

    torch_names = {
        'patch_embed': 'encoder.patch_embed',
        'pos_embed': ('encoder.pos_embed', UnitAxes((0,))),
        'transformer/block_{i}': 'encoder.blocks.{i}',
        'merger': 'encoder.merger',
        'classifier': 'head',
    }


CARD = ModelCard(
    Qwen3VitClassifier,
    title='Qwen3-VL Technical Report, its vision encoder as a classifier',
    arxiv='2511.21631',
    takes='image [b h w c]',
    paper_size={},
    presets=sizes('qwen3_vit'),
)
