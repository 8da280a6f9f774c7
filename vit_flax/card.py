"""Facts that a model file states besides its classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vit_flax.blocks.backbone import Backbone


@dataclass(frozen=True)
class ModelCard:
    """The `CARD` at the foot of a model file.

    Attributes:
      build: the main class of the file.
      title: the paper's title.
      arxiv: the paper's arXiv number, its address if it has none, '' where there is no paper.
      takes: the input and its layout, for people.
      paper_size: keyword arguments of the size that the paper (or upstream's README) leads with.
      presets: names of further ready-made sizes, each with the constructor's keyword arguments.
    """

    build: Callable[..., Backbone]
    title: str
    arxiv: str
    takes: str
    paper_size: Mapping[str, Any]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
