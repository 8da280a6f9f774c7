"""Sources of weights against the packages whose names they are: both ways, bit for bit, and the same outputs."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import vit_flax
from parity_tests.bridge import relative_error
from parity_tests.foreign import imported
from parity_tests.timm_side import VisionTransformer as TimmVisionTransformer
from parity_tests.timm_side import timm
from vit_flax.models.vision_transformer import VisionTransformer
from vit_flax.weights.files import read_arrays, write_arrays
from vit_flax.weights.sources import SOURCES, recognised

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    image_size=16,
    patch_size=4,
)
OURS = dict(img_size=16, patch_size=4, num_classes=5, embed_dim=32, depth=2, num_heads=4, mlp_ratio=1.5)
IMAGES = np.random.default_rng(1).normal(size=(2, 16, 16, 3))


def nchw() -> torch.Tensor:
    return torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())


def outputs(model: Any, variables: Any) -> np.ndarray:
    return np.asarray(jax.jit(model.apply)(variables, IMAGES))


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    rng = np.random.default_rng(0)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.3 * rng.normal(size=parameter.shape)))
    return model


def random_variables(model: Any) -> Any:
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES))
    return jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), shapes)


def same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


# Hugging Face ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Published:
    """A class of transformers.

    Attributes:
      module: where it is.
      name: of the class.
      config: of its configuration.
      extra: its arguments beside the small sizes.
      output: what it computes that is what our model returns.
      left_out: names of its files that have no use here.
      zero: whether these are written as zeros; if not, not at all.
      other_names: it writes names that it alone reads, ours are those of published files.
    """

    module: str
    name: str
    config: str
    output: Callable[[Any, torch.Tensor], torch.Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    zero: bool = False
    other_names: bool = False

    def __str__(self) -> str:
        return '-'.join([self.name, *(str(key) for key in self.extra if key not in ('id2label', 'mask_ratio'))])


def logits(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).logits


def pooled(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).pooler_output


def class_token(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).last_hidden_state[:, 0]


def mean(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).last_hidden_state.mean(1)


CLASSES = {'id2label': {i: str(i) for i in range(5)}}
MASK = ('embeddings.mask_token',)
PUBLISHED = (
    Published('vit', 'ViTForImageClassification', 'ViTConfig', logits, CLASSES),
    Published('deit', 'DeiTForImageClassificationWithTeacher', 'DeiTConfig', logits, CLASSES),
    Published('dinov2_with_registers', 'Dinov2WithRegistersModel', 'Dinov2WithRegistersConfig', class_token, left_out=MASK, zero=True),
    Published('clip', 'CLIPVisionModelWithProjection', 'CLIPVisionConfig', lambda m, x: m(x).image_embeds, {'projection_dim': 7}),
    Published('siglip', 'SiglipVisionModel', 'SiglipVisionConfig', pooled),
    Published('ijepa', 'IJepaForImageClassification', 'IJepaConfig', logits, CLASSES),
    Published('vit', 'ViTModel', 'ViTConfig', pooled),
    Published('vit', 'ViTModel', 'ViTConfig', pooled, {'qkv_bias': False, 'hidden_act': 'gelu_new'}),
    Published('deit', 'DeiTForImageClassification', 'DeiTConfig', logits, CLASSES),
    Published('deit', 'DeiTModel', 'DeiTConfig', pooled),
    Published('vit_mae', 'ViTMAEModel', 'ViTMAEConfig', class_token, {'mask_ratio': 0.0}),
    Published('vit_msn', 'ViTMSNModel', 'ViTMSNConfig', class_token),
    Published('vit_msn', 'ViTMSNForImageClassification', 'ViTMSNConfig', logits, CLASSES, other_names=True),
    Published('ijepa', 'IJepaModel', 'IJepaConfig', mean),
    Published('dinov2', 'Dinov2Model', 'Dinov2Config', class_token, left_out=MASK, zero=True),
    Published('dinov2', 'Dinov2Model', 'Dinov2Config', class_token, {'use_swiglu_ffn': True}, MASK, True),
    Published('clip', 'CLIPVisionModel', 'CLIPVisionConfig', pooled),
)
COMPUTED = 6


@cache
def transformers(module: str) -> ModuleType:
    return imported(f'transformers.models.{module}.modeling_{module}')


@cache
def theirs(published: Published) -> torch.nn.Module:
    config = getattr(imported(f'transformers.models.{published.module}'), published.config)
    return randomised(getattr(transformers(published.module), published.name)(config(**{**SMALL, **published.extra})))





def saved(published: Published, folder: Path) -> tuple[VisionTransformer, dict[str, np.ndarray]]:
    """What `save_pretrained` writes: our model by its configuration, and its arrays."""
    theirs(published).save_pretrained(folder)
    arrays = load_file(folder / 'model.safetensors')
    config = json.loads((folder / 'config.json').read_text())
    name, kwargs = SOURCES['huggingface'].configuration(config, arrays)
    return vit_flax.create_model(name, **kwargs), arrays


@pytest.mark.parametrize('published', PUBLISHED, ids=str)
def test_names_on_disk_and_in_memory(published: Published, tmp_path: Path):
    model, arrays = saved(published, tmp_path)
    said: list[str] = []
    variables = vit_flax.from_torch(model, arrays, source='huggingface', report=said.append)
    same(variables, vit_flax.from_torch(model, theirs(published).state_dict(), source='huggingface'))
    assert len(said) == bool(published.left_out)
    written = vit_flax.to_torch(model, variables, source='huggingface')
    same(variables, vit_flax.from_torch(model, written, source='huggingface'))
    if not published.other_names:
        assert written.keys() == arrays.keys()
        for name in published.left_out:
            assert said == [f'left out 1 arrays without use here: {name}'] and not written[name].any()
        same({**written, **{name: arrays[name] for name in published.left_out}}, arrays)
    save_file(written, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    again, info = type(theirs(published)).from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    assert not any(info.values())
    state = again.state_dict()
    for name, value in theirs(published).state_dict().items():
        assert name.endswith(published.left_out or ('no name',)) or torch.equal(state[name], value), name


@pytest.mark.parametrize(
    'published',
    [
        pytest.param(one, marks=() if i < COMPUTED else pytest.mark.exhaustive, id=str(one))
        for i, one in enumerate(PUBLISHED)
    ],
)
def test_outputs_of_transformers(published: Published, tmp_path: Path):
    model, arrays = saved(published, tmp_path)
    variables = vit_flax.from_torch(model, arrays, source='huggingface')
    with torch.no_grad():
        want = published.output(theirs(published), nchw()).numpy()
    assert relative_error(outputs(model, variables), want) <= 1e-9
