"""Escaping the Big Data Paradigm with Compact Transformers, arXiv:2104.05704, for videos.

vit-pytorch's `cct_3d`: CCT whose convolutions and pooling also run along time.
"""

from functools import partial

from vit_flax.blocks.checks import pair
from vit_flax.card import ModelCard
from vit_flax.models import cct
from vit_flax.models.cct import PRESETS
from vit_flax.models.cct import TransformerClassifier as TransformerClassifier


class CCT(cct.CCT, kw_only=True):
    """Compact Convolutional Transformer of videos (arXiv:2104.05704): `[b t h w c]` to logits `[b num_classes]`.

    Attributes:
      num_frames: of a video.
      frame_kernel_size, frame_stride, frame_padding: of the convolutions along time; a padding of None is half
        the kernel.
      frame_pooling_kernel_size, frame_pooling_stride, frame_pooling_padding: of the max pooling behind each,
        likewise.
    """

    num_frames: int = 8
    frame_stride: int = 1
    frame_kernel_size: int = 3
    frame_padding: int | None = None
    frame_pooling_kernel_size: int = 1
    frame_pooling_stride: int = 1
    frame_pooling_padding: int | None = None

    # upstream: `CCT(dropout_rate=...)`, `attention_dropout` and `seq_pool` raise a TypeError, since CCT passes them on
    # itself; here they are arguments like any other.

    @property
    def layout(self) -> str:
        return 'b t h w c'

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.num_frames, *pair(self.img_size, 'img_size')

    @property
    def stated_size(self) -> str:
        return f'num_frames={self.num_frames} with img_size={pair(self.img_size)}'

    @property
    def windows(self) -> tuple[tuple[int, ...], ...]:
        kernel, pooling = self.frame_kernel_size, self.frame_pooling_kernel_size
        in_time = (
            kernel,
            self.frame_stride,
            kernel // 2 if self.frame_padding is None else self.frame_padding,
            pooling,
            self.frame_pooling_stride,
            pooling // 2 if self.frame_pooling_padding is None else self.frame_pooling_padding,
        )
        return tuple((first, *others) for first, others in zip(in_time, super().windows, strict=True))


cct_2, cct_4, cct_6, cct_7, cct_8, cct_14, cct_16 = (partial(CCT, **preset) for preset in PRESETS.values())

CARD = ModelCard(
    CCT,
    title='Escaping the Big Data Paradigm with Compact Transformers, for videos',
    arxiv='2104.05704',
    takes='video [b t h w c]',
    paper_size=dict(
        num_frames=8,
        img_size=224,
        embedding_dim=384,
        n_conv_layers=2,
        positional_embedding='learnable',
        num_layers=14,
        num_heads=6,
        mlp_ratio=3.0,
        num_classes=1000,
    ),
    presets={name.replace('cct', 'cct_3d'): preset for name, preset in PRESETS.items()},
)
