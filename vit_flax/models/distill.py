"""Training data-efficient image transformers & distillation through attention, arXiv:2012.12877: its students.

vit-pytorch's `distill`: models that take one more token, which goes through the transformer behind the patches
and comes out beside the logits, for the objective of the same name to learn a teacher's answers from. Without
that token they are the models they are made of, with the same variables.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import repeat
from vit_flax.card import ModelCard
from vit_flax.models import efficient, t2t, vit
from vit_flax.models.vit import published_size


class Distillable(Module, kw_only=True):
    """What makes a model of a class token and patches a student; goes before it in the list of bases."""

    plain: ClassVar[type[nn.Module]]

    def setup(self) -> None:
        super().setup()
        self.distill_dropout = nn.Dropout(getattr(self, 'emb_dropout', 0.0))

    def __call__(self, images: Array, train: bool = False, distill_token: Array | None = None) -> Any:
        """Images `[b h w c]` to logits `[b num_classes]`; with a distillation token `[1 d]`, also to what the
        transformer makes of it, `[b d]`."""
        model: Any = self
        tokens = model.embed(images, train)
        classify = model.classify if model.num_classes > 0 else lambda tokens: tokens
        if distill_token is None:
            return classify(model.encode(tokens, train))
        (tokens, token) = self.promote(tokens, repeat(distill_token, '1 d -> b 1 d', b=tokens.shape[0]))
        token = self.distill_dropout(token, deterministic=not train)
        encoded = model.encode(jnp.concatenate([tokens, token], axis=1), train)
        # upstream: with pool='mean' the distillation token is not part of the average, though every token reads it.
        return classify(encoded[:, :-1]), encoded[:, -1]

    def to_vit(self) -> nn.Module:
        """The model without the extra token; it takes the same variables."""
        names = {field.name for field in dataclasses.fields(self.plain) if field.init} - {'parent', 'name'}
        return self.plain(**{name: getattr(self, name) for name in names}, parent=None)


class DistillableViT(Distillable, vit.ViT, kw_only=True):
    """ViT that can be distilled to (arXiv:2012.12877): images `[b h w c]` to logits `[b num_classes]`."""

    plain = vit.ViT


# upstream: the students of T2TViT and of the efficient ViT raise an error whenever they are called, since their class
# token has a batch axis that is not expected; here they run.
class DistillableT2TViT(Distillable, t2t.T2TViT, kw_only=True):
    """The same of T2TViT (arXiv:2101.11986)."""

    plain = t2t.T2TViT


class DistillableEfficientViT(Distillable, efficient.ViT, kw_only=True):
    """The same of the ViT around any transformer."""

    plain = efficient.ViT


CARD = ModelCard(
    DistillableViT,
    title='Training data-efficient image transformers & distillation through attention',
    arxiv='2012.12877',
    takes='image [b h w c]',
    # DeiT-B
    paper_size=published_size(16, 768, 12, 12),
)
