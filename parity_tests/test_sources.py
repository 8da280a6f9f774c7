"""Sources of weights against the packages whose names they are: both ways, bit for bit, and the same outputs."""

import json
import re
import time
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
from parity_tests.timm_side import Eva as TimmEva
from parity_tests.timm_side import HybridVisionTransformer as TimmHybrid
from parity_tests.timm_side import VisionTransformer as TimmVisionTransformer
from parity_tests.timm_side import timm
from vit_flax.cli.main import main
from vit_flax.models.eva import Eva
from vit_flax.models.vision_transformer import VisionTransformer
from vit_flax.models.vision_transformer_hybrid import HybridVisionTransformer
from vit_flax.objectives.mae import MAE
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
            parameter.copy_(torch.from_numpy(np.asarray(0.3 * rng.normal(size=parameter.shape))))
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
      left_out: names of its files that have no use here, and are written as zeros.
      other_names: it writes names that it alone reads, ours are those of published files.
    """

    module: str
    name: str
    config: str
    output: Callable[[Any, torch.Tensor], torch.Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    other_names: bool = False

    def __str__(self) -> str:
        return '-'.join([self.name, *(str(key) for key in self.extra if key not in ('id2label', 'mask_ratio'))])


def logits(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).logits


def pooled(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).pooler_output


def projected(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).image_embeds


def class_token(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).last_hidden_state[:, 0]


def mean(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).last_hidden_state.mean(1)


CLASSES = {'id2label': {i: str(i) for i in range(5)}}
MASK = ('embeddings.mask_token',)
PUBLISHED = (
    Published('vit', 'ViTForImageClassification', 'ViTConfig', logits, CLASSES),
    Published('deit', 'DeiTForImageClassificationWithTeacher', 'DeiTConfig', logits, CLASSES),
    Published('dinov2_with_registers', 'Dinov2WithRegistersModel', 'Dinov2WithRegistersConfig', class_token, {}, MASK),
    Published('clip', 'CLIPVisionModelWithProjection', 'CLIPVisionConfig', projected, {'projection_dim': 7}),
    Published('siglip', 'SiglipVisionModel', 'SiglipVisionConfig', pooled),
    Published('ijepa', 'IJepaForImageClassification', 'IJepaConfig', logits, CLASSES),
    Published('vit', 'ViTModel', 'ViTConfig', pooled),
    Published('deit', 'DeiTForImageClassification', 'DeiTConfig', logits, CLASSES),
    Published('vit_mae', 'ViTMAEModel', 'ViTMAEConfig', class_token, {'mask_ratio': 0.0}),
    Published('vit_msn', 'ViTMSNForImageClassification', 'ViTMSNConfig', logits, CLASSES, other_names=True),
    Published('dinov2', 'Dinov2Model', 'Dinov2Config', class_token, {'use_swiglu_ffn': True}, MASK),
    Published('clip', 'CLIPVisionModel', 'CLIPVisionConfig', pooled),
    Published('ijepa', 'IJepaModel', 'IJepaConfig', mean),
    Published('vit', 'ViTModel', 'ViTConfig', pooled, {'qkv_bias': False, 'hidden_act': 'gelu_new'}),
    Published('deit', 'DeiTModel', 'DeiTConfig', pooled),
    Published('vit_msn', 'ViTMSNModel', 'ViTMSNConfig', class_token),
    Published('dinov2', 'Dinov2Model', 'Dinov2Config', class_token, {}, MASK),
)


def some(every: Any, always: int) -> list[Any]:
    """Parameters, of which those behind the first few run with `--all` alone."""
    return [
        pytest.param(one, marks=() if i < always else pytest.mark.exhaustive, id=str(one))
        for i, one in enumerate(every)
    ]


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


@pytest.mark.parametrize('published', some(PUBLISHED, 13))
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


@pytest.mark.parametrize('published', some(PUBLISHED, 6))
def test_outputs_of_transformers(published: Published, tmp_path: Path):
    model, arrays = saved(published, tmp_path)
    variables = vit_flax.from_torch(model, arrays, source='huggingface')
    with torch.no_grad():
        want = published.output(theirs(published), nchw()).numpy()
    assert relative_error(outputs(model, variables), want) <= 1e-9


def flax_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the Flax modules of transformers 4 called these, nested at each `/`, with the layouts of Flax."""
    found = {}
    for name, array in arrays.items():
        above, _, leaf = name.rpartition('.')
        if leaf == 'weight' and array.ndim == 4:
            leaf, array = 'kernel', array.transpose(2, 3, 1, 0)
        elif leaf == 'weight' and 'position_embedding' in above:
            leaf = 'embedding'
        elif leaf == 'weight':
            leaf, array = ('kernel', array.T) if array.ndim == 2 else ('scale', array)
        found[f'{above}.{leaf}'.replace('.', '/')] = array
    return found


@pytest.mark.parametrize('published', [PUBLISHED[0], PUBLISHED[3], PUBLISHED[16]], ids=str)
def test_msgpack_of_flax_modules(published: Published, tmp_path: Path):
    """FlaxViT, FlaxCLIP's image encoder, FlaxDinov2."""
    model, arrays = saved(published, tmp_path)
    write_arrays(tmp_path / 'flax_model.msgpack', flax_names(arrays))
    read = read_arrays(tmp_path / 'flax_model.msgpack')
    assert recognised(read) == recognised(arrays) != ''
    same(*(vit_flax.from_torch(model, one, source='huggingface') for one in (arrays, read)))


def test_one_of_several_networks_that_fit():
    """SigLIP without its pooling is I-JEPA under other names."""
    model = VisionTransformer(**{**OURS, 'num_classes': 0}, class_token=False, global_pool='avg', fc_norm=False)
    variables = random_variables(model)
    written = vit_flax.to_torch(model, variables, source='huggingface/SigLIP')
    config = imported('transformers.models.siglip').SiglipVisionConfig(**SMALL, vision_use_head=False)
    network = transformers('siglip').SiglipVisionModel(config)
    network.load_state_dict(tensors(written), strict=True)
    same(variables, vit_flax.from_torch(model, written, source='huggingface'))
    assert recognised(vit_flax.to_torch(model, variables, source='huggingface')) == 'huggingface (IJepa)'
    with pytest.raises(
        ValueError, match=r"source='huggingface/Siglip' is unknown: use one of 'huggingface/ViT', .*SigLIP"
    ):
        vit_flax.to_torch(model, variables, source='huggingface/Siglip')


def test_siglip_with_a_head_of_classes(tmp_path: Path):
    """Which reads the mean of the patches, and leaves the pooling head that it has aside."""
    config = imported('transformers.models.siglip').SiglipConfig(vision_config=SMALL, id2label=CLASSES['id2label'])
    network = randomised(transformers('siglip').SiglipForImageClassification(config))
    network.save_pretrained(tmp_path)
    arrays = load_file(tmp_path / 'model.safetensors')
    said: list[str] = []
    name, kwargs = SOURCES['huggingface'].configuration(json.loads((tmp_path / 'config.json').read_text()), arrays)
    model = vit_flax.create_model(name, **kwargs)
    variables = vit_flax.from_torch(model, arrays, source='huggingface', report=said.append)
    assert said == ['left out 11 arrays without use here: vision_model.* (11)']
    with torch.no_grad():
        assert relative_error(outputs(model, variables), network(nchw()).logits.numpy()) <= 1e-9
    written = vit_flax.to_torch(model, variables, source='huggingface/SigLIP')
    assert all((written[name] == arrays[name]).all() for name in written) and len(written) == len(arrays) - 11


@pytest.mark.parametrize('gated, registers', [(False, 0), (True, 3)])
def test_dinov3(gated: bool, registers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the angles of rotary positions in float64, which theirs computes in float32."""
    module = transformers('dinov3_vit')
    sizes = {**SMALL, 'num_register_tokens': registers, 'use_gated_mlp': gated, 'layerscale_value': 0.1}
    sizes['hidden_act'] = 'silu' if gated else 'gelu'
    network = randomised(module.DINOv3ViTModel(imported('transformers.models.dinov3_vit').DINOv3ViTConfig(**sizes)))
    network.rope_embeddings.inv_freq = 1 / 100.0 ** torch.arange(0, 1, 4 / 16, dtype=torch.float64)
    centres = module.get_patches_center_coordinates
    monkeypatch.setattr(
        module, 'get_patches_center_coordinates', lambda *grid, dtype, device: centres(*grid, torch.float64, device)
    )
    network.save_pretrained(tmp_path)
    arrays = load_file(tmp_path / 'model.safetensors')
    name, kwargs = SOURCES['huggingface'].configuration(json.loads((tmp_path / 'config.json').read_text()), arrays)
    model = vit_flax.create_model(name, **kwargs)
    variables = vit_flax.from_torch(model, arrays, source='huggingface')
    same(variables, vit_flax.from_torch(model, network.state_dict(), source='huggingface'))
    with torch.no_grad():
        want = network(nchw()).last_hidden_state[:, 1 + registers :].mean(1).numpy()
    assert relative_error(outputs(model, variables), want) <= 1e-9
    written = vit_flax.to_torch(model, variables, source='huggingface')
    assert not written['embeddings.mask_token'].any()
    same({**written, 'embeddings.mask_token': arrays['embeddings.mask_token']}, arrays)
    save_file(written, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    _, info = type(network).from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    assert not any(info.values())


@pytest.mark.parametrize('kind', ['CLIP', 'Siglip'])
def test_image_encoder_of_a_whole_model(kind: str, tmp_path: Path):
    """What is of texts is left out, and said."""
    package = imported(f'transformers.models.{kind.lower()}')
    text = {
        **{key: SMALL[key] for key in ('hidden_size', 'num_hidden_layers', 'num_attention_heads')},
        'vocab_size': 50,
    }
    extra = {'projection_dim': 7} if kind == 'CLIP' else {}
    config = getattr(package, f'{kind}Config')(
        vision_config=SMALL, text_config=text | {'intermediate_size': 48}, **extra
    )
    network = randomised(getattr(transformers(kind.lower()), f'{kind}Model')(config))
    network.save_pretrained(tmp_path)
    arrays = load_file(tmp_path / 'model.safetensors')
    name, kwargs = SOURCES['huggingface'].configuration(json.loads((tmp_path / 'config.json').read_text()), arrays)
    model = vit_flax.create_model(name, **kwargs)
    said: list[str] = []
    variables = vit_flax.from_torch(model, arrays, source='huggingface', report=said.append)
    with torch.no_grad():
        want = network.get_image_features(nchw()).pooler_output.numpy()
    assert relative_error(outputs(model, variables), want) <= 1e-9
    assert len(said) == 1 and 'text_model.* (' in said[0] and 'logit_scale' in said[0]


BEITS = {
    'tables_of_blocks': {'use_relative_position_bias': True, 'use_mask_token': True, **CLASSES},
    'shared_table': {'use_shared_relative_position_bias': True, 'use_mean_pooling': False},
    'positions': {'use_absolute_position_embeddings': True},
}


@pytest.mark.parametrize('name', BEITS)
def test_beit(name: str, tmp_path: Path):
    kind = 'BeitForImageClassification' if 'id2label' in BEITS[name] else 'BeitModel'
    config = imported('transformers.models.beit').BeitConfig(**SMALL, **BEITS[name])
    network = randomised(getattr(transformers('beit'), kind)(config))
    network.save_pretrained(tmp_path)
    arrays = load_file(tmp_path / 'model.safetensors')
    stem, kwargs = SOURCES['huggingface'].configuration(json.loads((tmp_path / 'config.json').read_text()), arrays)
    model = vit_flax.create_model(stem, **kwargs)
    variables = vit_flax.from_torch(model, arrays, source='huggingface')
    same(variables, vit_flax.from_torch(model, network.state_dict(), source='huggingface'))
    same(variables, vit_flax.from_torch(model, flax_names(arrays), source='huggingface'))
    with torch.no_grad():
        want = (logits if 'id2label' in BEITS[name] else pooled)(network, nchw()).numpy()
    assert relative_error(outputs(model, variables), want) <= 1e-9
    written = vit_flax.to_torch(model, variables, source='huggingface')
    same(written, {name: x for name, x in arrays.items() if not name.endswith('mask_token')})
    # older files hold the index of the tables
    index = {name.replace('bias_table', 'index'): np.zeros((17, 17)) for name in arrays if 'bias_table' in name}
    same(variables, vit_flax.from_torch(model, arrays | index, source='huggingface'))


def masked_autoencoder() -> tuple[torch.nn.Module, MAE]:
    """ViTMAE with its decoder, and our objective around our encoder."""
    config = imported('transformers.models.vit_mae').ViTMAEConfig
    sizes = dict(
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        norm_pix_loss=True,
        mask_ratio=0.75,
        layer_norm_eps=1e-6,
    )
    network = randomised(transformers('vit_mae').ViTMAEForPreTraining(config(**SMALL, **sizes)))
    encoder = VisionTransformer(**{**OURS, 'num_classes': 0, 'num_heads': 2})
    objective = MAE(
        encoder=encoder,
        decoder_dim=16,
        decoder_depth=2,
        decoder_heads=2,
        decoder_dim_head=8,
        norm_pixels=True,
        class_token=True,
        decoder_qkv_bias=True,
        decoder_norm_eps=1e-6,
    )
    return network, objective


def test_masked_autoencoder_with_its_decoder(tmp_path: Path):
    """Loss, and its gradients in the names of both sides; the names of the authors too."""
    network, objective = masked_autoencoder()
    network.save_pretrained(tmp_path)
    on_disk = load_file(tmp_path / 'model.safetensors')
    variables = vit_flax.from_torch(objective, network.state_dict(), source='huggingface')
    same(variables, vit_flax.from_torch(objective, on_disk, source='huggingface'))
    noise = np.random.default_rng(2).random((2, 16))
    order = noise.argsort(axis=1)
    loss = network(nchw(), noise=torch.from_numpy(noise)).loss
    loss.backward()

    def ours(params: Any) -> Any:
        return objective.apply({**variables, 'params': params}, IMAGES, order[:, 4:], order[:, :4])

    value, gradients = jax.jit(jax.value_and_grad(ours))(variables['params'])
    assert relative_error(np.asarray(value), loss.detach().numpy()) <= 1e-9
    written = vit_flax.to_torch(objective, {**variables, 'params': gradients}, source='huggingface')
    wanted = vit_flax.from_torch(
        objective,
        {name: x.grad if x.grad is not None else torch.zeros_like(x) for name, x in network.named_parameters()},
        source='huggingface',
    )
    wanted = vit_flax.to_torch(objective, wanted, source='huggingface')
    fixed = ('position_embeddings', 'decoder_pos_embed')  # of sines and cosines, learned here
    assert written.keys() == wanted.keys()
    for name in wanted:
        if name.endswith('key.bias'):  # which no softmax feels
            assert max(np.abs(written[name]).max(), np.abs(wanted[name]).max()) <= 1e-12
        else:
            assert name.endswith(fixed) or relative_error(written[name], wanted[name]) <= 1e-9, name

    written = vit_flax.to_torch(objective, variables, source='huggingface')
    assert all('decoder_layers' in name or name in on_disk for name in written)
    save_file(written, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    again, info = type(network).from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    assert not any(info.values())
    same(*({name: x.numpy() for name, x in one.state_dict().items()} for one in (network, again)))

    authors = vit_flax.to_torch(objective, variables, source='mae')
    assert {name.partition('.')[0] for name in authors} == {
        *('cls_token', 'pos_embed', 'patch_embed', 'blocks', 'norm', 'mask_token'),
        *('decoder_embed', 'decoder_pos_embed', 'decoder_blocks', 'decoder_norm', 'decoder_pred'),
    }
    assert recognised(authors) == 'mae (pretraining)' and authors['mask_token'].shape == (1, 1, 16)
    with pytest.raises(ValueError, match='number of attention heads of a width of 32'):  # those of the encoder
        SOURCES['mae'].configuration(authors)
    same(variables, vit_flax.from_torch(objective, authors, source='mae'))
    # the encoder alone, without the decoder
    said: list[str] = []
    encoder = vit_flax.from_torch(objective.encoder, authors, source='mae', report=said.append)
    same(encoder['params'], variables['params']['encoder'])
    assert (
        said == ['left out 32 arrays without use here: ' + said[0].partition(': ')[2]] and 'decoder_blocks' in said[0]
    )


# torchvision, Google, timm --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('representation_size', [None, 24])
def test_torchvision(representation_size: int | None):
    kind = imported('torchvision.models.vision_transformer').VisionTransformer
    network = randomised(kind(16, 4, 2, 4, 32, 48, num_classes=5, representation_size=representation_size))
    model = VisionTransformer(**OURS, representation_size=representation_size)
    state_dict = network.state_dict()
    variables = vit_flax.from_torch(model, state_dict, source='torchvision')
    written = vit_flax.to_torch(model, variables, source='torchvision')
    same(written, {name: value.numpy() for name, value in state_dict.items()})
    network.load_state_dict(tensors(written), strict=True)
    with torch.no_grad():
        assert relative_error(outputs(model, variables), network(nchw()).numpy()) <= 1e-9
    older = {
        re.sub(r'mlp\.(0|3)\.', lambda n: f'mlp.linear_{1 + int(n[1]) // 3}.', name): x for name, x in written.items()
    }
    assert older.keys() != written.keys()
    same(variables, vit_flax.from_torch(model, older, source='torchvision'))


def test_compare_names_the_layers_of_another_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kind = 'torchvision.models.vision_transformer'
    (tmp_path / 'theirs.py').write_text(
        f'from parity_tests.foreign import imported\nViT = imported({kind!r}).VisionTransformer'
    )
    network = randomised(imported(kind).VisionTransformer(16, 4, 2, 4, 32, 48, num_classes=5))
    torch.save({'model': prefixed('module.', network.state_dict())}, tmp_path / 'a.pth')
    theirs = {'image_size': 16, 'num_layers': 2, 'hidden_dim': 32, 'mlp_dim': 48}
    args = ['--source', 'torchvision', '--torch-class', f'{tmp_path}/theirs.py:ViT', '--model', 'vision_transformer']
    args += [part for key, value in OURS.items() for part in ('--arg', f'{key}={value}')]
    args += [part for key, value in theirs.items() for part in ('--torch-arg', f'{key}={value}')]
    assert main(['compare', str(tmp_path / 'a.pth'), *args]) == 0
    out, err = capsys.readouterr()
    assert err == "read 32 arrays below 'model/module.'\n" and 'EQUAL: 17 layers compared' in out
    assert re.search(r'transformer/block_1/attention +encoder\.layers\.encoder_layer_1\.self_attention ', out)
    # another activation
    assert main(['compare', str(tmp_path / 'a.pth'), *args, '--arg', 'act=quick_gelu']) == 1
    assert 'where torch runs encoder.layers.encoder_layer_0.mlp.1 GELU' in capsys.readouterr().out


GOOGLE = {
    'vision_transformer': {},
    'headless': {'num_classes': 0},
    'map': {'global_pool': 'map', 'class_token': False, 'num_classes': 0},
    'gap': {'global_pool': 'avg', 'fc_norm': False, 'class_token': False},
    'big_vision': {'no_embed_class': True},
}


@pytest.mark.parametrize('name', GOOGLE)
def test_google_as_timm_reads_it(name: str, tmp_path: Path):
    """timm's own reader is the oracle of names and layouts."""
    args = {**OURS, **GOOGLE[name]}
    model = VisionTransformer(**args)
    variables = random_variables(model)
    written = vit_flax.to_torch(model, variables, source='google')
    write_arrays(tmp_path / 'a.npz', written)
    network = TimmVisionTransformer(**args).double().eval()
    network.load_pretrained(tmp_path / 'a.npz')
    same(
        {key: value.numpy() for key, value in network.state_dict().items()},
        vit_flax.to_torch(model, variables, source='timm'),
    )

    # vintages: other prefixes, blocks along an axis, training state beside the network
    bare = {key.removeprefix('params/'): array for key, array in written.items()}
    others = {'params/txt/Encoder_0/scale': np.ones(3), 'params/t': np.ones(1), 'opt/0/mu': np.ones(2)}
    for arrays in (
        bare,
        {f'opt/target/{key}': array for key, array in bare.items()},
        {f'params/img/{key}': array for key, array in bare.items()} | others,
        {key: array for key, array in bare.items() if 'encoderblock' not in key} | stacked(bare),
    ):
        same(variables, vit_flax.from_torch(model, arrays, source='google'))
    stem, kwargs = SOURCES['google'].configuration(written)
    assert {**kwargs, 'act': 'gelu'} == {**kwargs, **args, 'act': 'gelu'} and stem == 'vision_transformer'
    assert kwargs['act'] == 'gelu_tanh'


@pytest.mark.parametrize('layers', [(), (1, 2)])
def test_hybrids_of_google_as_timm_reads_them(layers: tuple[int, ...], tmp_path: Path):
    args = {**OURS, 'img_size': 32, 'patch_size': 1 if layers else 2}
    args |= {'layers': layers, 'widths': (64, 128), 'stem_chs': 16, 'num_groups': 8}
    model = HybridVisionTransformer(**args)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3))))
    variables = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), shapes)
    written = vit_flax.to_torch(model, variables, source='google')
    # as in published files
    published = {key: x.reshape(1, 1, 1, -1) if '/gn' in f'/{key}' else x for key, x in written.items()}
    same(variables, vit_flax.from_torch(model, published, source='google'))
    write_arrays(tmp_path / 'a.npz', published)
    network = TimmHybrid(**args).double().eval()
    timm_reader()(network, tmp_path / 'a.npz')
    same(
        {key: x.numpy() for key, x in network.state_dict().items()}, vit_flax.to_torch(model, variables, source='timm')
    )
    assert recognised(written) == 'google (hybrid)'
    stem, kwargs = SOURCES['google'].configuration(written)
    assert stem == 'vision_transformer_hybrid'
    told = {key: value for key, value in args.items() if key not in ('num_groups', *(() if layers else ('widths',)))}
    assert {key: kwargs[key] for key in told} == told


def stacked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [key for key in arrays if 'encoderblock_0/' in key]
    layers = [[arrays[key.replace('_0/', f'_{i}/', 1)] for i in range(2)] for key in names]
    return {key.replace('_0/', '/', 1): np.stack(each) for key, each in zip(names, layers, strict=True)}


AUTHORS = {
    'aimv2': (
        'aimv2',
        {'class_token': False, 'global_pool': 'avg', 'fc_norm': False, 'num_classes': 0, 'norm': 'rms', 'act': 'silu'}
        | {'embed_norm': True, 'mlp': 'swiglu', 'qkv_bias': False, 'proj_bias': False},
    ),
    'clip': ('clip', {'pre_norm': True, 'norm_eps': 1e-5, 'act': 'quick_gelu'}),
    'dino': ('dino', {'num_classes': 0}),
    'deit_distilled': ('deit', {'distilled': True}),
    'deit_3': ('deit', {'init_values': 1e-6, 'no_embed_class': True}),
    'mae_fine_tuned': ('mae', {'global_pool': 'avg'}),
    'dinov2_registers': ('dinov2', {'init_values': 1e-5, 'num_classes': 0, 'reg_tokens': 3, 'no_embed_class': True}),
    'dinov2_gated': ('dinov2', {'init_values': 1e-5, 'num_classes': 0, 'mlp': 'swiglu_packed', 'act': 'silu'}),
    'clip_without_projection': ('clip', {'pre_norm': True, 'norm_eps': 1e-5, 'act': 'quick_gelu', 'num_classes': 0}),
    'deit': ('deit', {}),
    'mae': ('mae', {'num_classes': 0}),
    'dinov2': ('dinov2', {'init_values': 1e-5, 'num_classes': 0}),
}


@pytest.mark.parametrize('name', some(AUTHORS, 8))
def test_authors_names_as_timm_reads_them(name: str):
    """timm's filter of checkpoints is the oracle."""
    source, extra = AUTHORS[name]
    args = {**OURS, **extra}
    model = VisionTransformer(**args)
    variables = random_variables(model)
    if source == 'clip' and model.num_classes:
        variables['params']['classifier']['bias'] *= 0  # it has none
    written = vit_flax.to_torch(model, variables, source=source)
    assert SOURCES[source].matches(written)
    same(variables, vit_flax.from_torch(model, written, source=source))
    network = TimmVisionTransformer(**args).double()
    filtered = timm_filter()(tensors(written), network, adapt_layer_scale=name == 'deit_3')
    network.load_state_dict(filtered, strict=True)
    same(
        {key: value.numpy() for key, value in network.state_dict().items()},
        vit_flax.to_torch(model, variables, source='timm'),
    )


@pytest.mark.parametrize('gated, bias', [(False, True), (True, False)])
def test_dinov3_of_its_authors_as_timm_reads_it(gated: bool, bias: bool):
    args = dict(
        **{key: OURS[key] for key in ('img_size', 'patch_size', 'embed_dim', 'depth')},
        **dict(num_classes=0, num_heads=2, init_values=0.1, num_reg_tokens=3, use_abs_pos_emb=False),
        **dict(use_rot_pos_emb=True, rope_type='dinov3', rope_rotate_half=True, rope_temperature=100.0),
        **dict(use_fc_norm=False, swiglu_mlp=gated, swiglu_align_to=8 if gated else 0, qkv_bias=bias),
    )
    model = Eva(**args)
    variables = random_variables(model)
    written = vit_flax.to_torch(model, variables, source='dinov3')
    assert recognised(written) == 'dinov3 (DINOv3)'
    np.testing.assert_array_equal(written['blocks.1.attn.qkv.bias_mask'], np.repeat([1, 0, 1], 32))
    assert not written['blocks.1.attn.qkv.bias'][32:64].any() and written['mask_token'].shape == (1, 32)
    np.testing.assert_allclose(written['rope_embed.periods'], 100 ** (2 * np.arange(4) / 8))
    same(variables, vit_flax.from_torch(model, written, source='dinov3'))
    network = TimmEva(**args).double()
    timm()
    filtered = imported('timm.models.eva').checkpoint_filter_fn(tensors(written), network)
    same({key: x.numpy() for key, x in filtered.items()}, vit_flax.to_torch(model, variables, source='timm'))
    if not bias:  # which are left out because they are zero
        written['blocks.0.attn.qkv.bias'][3] = 1
        with pytest.raises(ValueError, match=r'unexpected: blocks\.0\.attn\.qkv\.bias'):
            vit_flax.from_torch(model, written, source='dinov3')


def test_beit_3_as_timm_reads_it():
    """With what its expert of texts has beside it."""
    args = {**OURS, 'global_pool': 'avg', 'scale_attn_norm': True, 'scale_mlp_norm': True}
    model = VisionTransformer(**args)
    family = SOURCES['beit3'].families[0]
    variables = random_variables(model)
    arrays = family.write(model, vit_flax.to_torch(model, variables, source='timm'))
    arrays |= {name.replace('.A.', '.B.'): np.ones(1) for name in arrays if '.A.' in name}
    arrays |= {'beit3.text_embed.weight': np.ones((3, 32)), 'beit3.vision_embed.mask_token': np.ones((1, 1, 32))}
    assert recognised(arrays) == 'beit3 (BEiT-3)' and 'beit3.encoder.layers.1.ffn.A.ffn_layernorm.bias' in arrays
    same(variables, vit_flax.from_torch(model, arrays, source='beit3'))
    filtered = timm_filter()(tensors(arrays), TimmVisionTransformer(**args).double())
    same({key: x.numpy() for key, x in filtered.items()}, vit_flax.to_torch(model, variables, source='timm'))
    with pytest.raises(ValueError, match="source='beit3' has names for VisionTransformer, but is read alone"):
        vit_flax.to_torch(model, variables, source='beit3')


def timm_reader() -> Callable[..., Any]:
    timm()
    return imported('timm.models.vision_transformer')._load_weights


def timm_filter() -> Callable[..., Any]:
    timm()
    return imported('timm.models.vision_transformer').checkpoint_filter_fn


@pytest.mark.parametrize('name', some(['dinov2_gated', 'deit_distilled', 'dinov2', 'mae_fine_tuned'], 2))
def test_arguments_from_shapes(name: str):
    source, extra = AUTHORS[name]
    args = {**OURS, **extra, 'embed_dim': 64, 'num_heads': 1}
    model = VisionTransformer(**args)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    written = vit_flax.to_torch(model, zeros, source=source)
    stem, kwargs = SOURCES[source].configuration(written)
    assert vit_flax.create_model(stem, **kwargs) == model


def test_shapes_do_not_tell_clips_activation():
    """OpenCLIP has OpenAI's names, and GELU in most networks where OpenAI has x sigmoid(1.702 x)."""
    model = VisionTransformer(**{**OURS, 'pre_norm': True, 'num_classes': 0})
    written = vit_flax.to_torch(model, random_variables(model), source='clip')
    with pytest.raises(ValueError, match='the shapes of image encoder do not tell its arguments'):
        SOURCES['clip'].configuration(written)


# wrappers, older releases and mistakes --------------------------------------------------------------------------------

PLAIN = VisionTransformer(**OURS)


@cache
def plain_variables() -> Any:
    return random_variables(PLAIN)


def prefixed(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: array for name, array in arrays.items()}


def inside(arrays: dict[str, Any]) -> dict[str, Any]:
    """As of a compiled or sharded first module."""
    first = next(iter(arrays)).partition('.')[0]
    return {re.sub(rf'^{first}\.', f'{first}._orig_mod.', name): array for name, array in arrays.items()}


WRAPPERS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    'checkpoint': (lambda x: {'model': x, 'epoch': 3, 'args': object()}, "read N arrays below 'model/'"),
    'ddp': (lambda x: prefixed('module.', x), "read N arrays below 'module.'"),
    'compiled': (lambda x: prefixed('_orig_mod.', x), 'took _orig_mod. out of names'),
    'both': (lambda x: {'state_dict': prefixed('module._orig_mod.', x)}, 'took _orig_mod. out of names'),
    'ema': (lambda x: {'model': prefixed('', zeros_of(x)), 'model_ema': x}, "read N arrays below 'model_ema/'"),
    'teacher': (
        lambda x: {
            'student': prefixed('module.backbone.', zeros_of(x)),
            'teacher': prefixed('backbone.', x) | {'head.mlp.0.weight': np.ones((2, 2))},
        },
        "read N arrays below 'teacher/backbone.'",
    ),
}


def zeros_of(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: np.zeros_like(array) for name, array in arrays.items()}


@pytest.mark.parametrize('source', ['timm', 'huggingface', 'torchvision', 'google', 'deit'])
@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_what_is_around_a_state_dict_is_taken_off_and_said(wrapper: str, source: str):
    wrap, line = WRAPPERS[wrapper]
    arrays = vit_flax.to_torch(PLAIN, plain_variables(), source=source)
    said: list[str] = []
    same(plain_variables(), vit_flax.from_torch(PLAIN, wrap(arrays), source=source, report=said.append))
    assert line in [re.sub(r'\d+ arrays', 'N arrays', one) for one in said]
    if wrapper in ('ema', 'teacher'):
        assert any(one.startswith('left out') and ('model' in one or 'student' in one) for one in said)


def test_several_networks_without_a_preferred_one():
    arrays = vit_flax.to_torch(PLAIN, plain_variables(), source='huggingface')
    both = prefixed('left.', arrays) | prefixed('right.', arrays)
    with pytest.raises(ValueError, match=r"holds 2 networks, below 'left\.vit\.', 'right\.vit\.'"):
        vit_flax.from_torch(PLAIN, both, source='huggingface')


@pytest.mark.parametrize('named', ['timm', 'huggingface', 'google', 'torchvision', 'clip', 'dinov2'])
def test_names_of_another_source_are_recognised(named: str):
    for source in ('timm', 'huggingface', 'google', 'torchvision'):
        if source != named:
            arrays = vit_flax.to_torch(PLAIN, plain_variables(), source=source)
            with pytest.raises(ValueError, match=f'source={named!r}: these are names of {source}'):
                vit_flax.from_torch(PLAIN, arrays, source=named)


def test_strict_in_the_words_of_the_file():
    arrays = vit_flax.to_torch(PLAIN, plain_variables(), source='huggingface')
    del arrays['classifier.bias']
    arrays |= {'vit.layernorm.weigth': arrays.pop('vit.layernorm.weight'), 'extra': np.ones(2)}
    arrays['vit.encoder.layer.0.output.dense.bias'] = np.ones(7)
    with pytest.raises(ValueError) as error:
        vit_flax.from_torch(PLAIN, arrays, source='huggingface')
    assert str(error.value).splitlines() == [
        'the state dict does not fit the model (5 problems):',
        '  missing: classifier.bias',
        '  missing: vit.layernorm.weight (nearest: vit.layernorm.weigth)',
        '  unexpected: extra',
        '  unexpected: vit.layernorm.weigth (nearest: vit.layernorm.weight)',
        '  shape of vit.encoder.layer.0.output.dense.bias: the model has (32,), the state dict (7,)',
    ]
    del arrays['vit.encoder.layer.1.attention.attention.key.weight']
    with pytest.raises(ValueError, match=r'missing: vit\.encoder\.layer\.1\.attention\.attention\.key\.weight'):
        vit_flax.from_torch(PLAIN, arrays, source='huggingface')


def test_two_spellings_in_one_file():
    flax = flax_names(vit_flax.to_torch(PLAIN, plain_variables(), source='huggingface'))
    flax['vit/layernorm/embedding'] = np.ones(32)
    with pytest.raises(ValueError, match=r'holds vit\.layernorm\.weight twice, in two spellings'):
        vit_flax.from_torch(PLAIN, flax, source='huggingface')
    google = vit_flax.to_torch(PLAIN, plain_variables(), source='google')
    with pytest.raises(ValueError, match=r'holds Transformer/encoderblock_0/\S+ twice, in two spellings'):
        vit_flax.from_torch(PLAIN, google | stacked(google), source='google')
    many = google | {'Transformer/encoderblock/LayerNorm_9/bias': np.zeros((10**9, 0))}
    with pytest.raises(ValueError, match='unexpected: Transformer/encoderblock/LayerNorm_9/bias'):
        vit_flax.from_torch(PLAIN, many, source='google')


def test_two_releases_in_one_file():
    arrays = vit_flax.to_torch(PLAIN, plain_variables(), source='huggingface')
    arrays['vit.layers.0.layernorm_before.bias'] = np.ones(32)
    with pytest.raises(ValueError, match=r'encoder\.layer\.0\.layernorm_before\.bias twice, under names of several'):
        vit_flax.from_torch(PLAIN, arrays, source='huggingface')


def test_recognising_takes_no_time_on_long_names():
    names = ['a/' * 400 + str(i) for i in range(1000)]
    start = time.perf_counter()
    assert recognised(names) == ''
    assert time.perf_counter() - start < 2  # a tenth of it, where nothing else runs


REFUSED = {
    'pooling': ({'global_pool': 'max'}, "ViT: global_pool='max' should be 'token'"),
    'bias_of_a_projection': ({'pre_norm': True}, 'CLIP has no head.bias, which must be zero to be left out'),
    'norm_of_queries': ({'qk_norm': True}, r'ViT has no blocks\.0\.attn\.k_norm\.bias'),
    'head_of_dinov2': ({'init_values': 1e-5}, 'Dinov2: num_classes=5 should be 0'),
    'scale': ({'qk_scale': 0.2}, 'ViT: qk_scale=0.2 should be None'),
    'class_position': (
        {'init_values': 1e-5, 'num_classes': 0, 'reg_tokens': 2},
        'pos_embed has positions of register tokens, which must be zero to be left out',
    ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_theirs_cannot_compute_is_not_written(name: str):
    args, message = REFUSED[name]
    model = VisionTransformer(**{**OURS, **args})
    with pytest.raises(ValueError, match=message):
        vit_flax.to_torch(model, random_variables(model), source='huggingface')


def test_a_network_that_the_model_is_not():
    arrays = vit_flax.to_torch(PLAIN, plain_variables(), source='huggingface')
    model = VisionTransformer(**OURS, global_pool='avg')
    with pytest.raises(ValueError, match="is of ViT, which the model is not: global_pool='avg' should be 'token'"):
        vit_flax.from_torch(model, arrays, source='huggingface')
    model = vit_flax.create_model('vit', image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, heads=1, mlp_dim=8)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES[:, :8, :8]))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variables)
    with pytest.raises(ValueError, match=r"source='torchvision' has names for VisionTransformer, not for ViT"):
        vit_flax.to_torch(model, zeros, source='torchvision')


def open_clip(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A network of timm in OpenCLIP, which keeps the projection beside it, beside a text encoder."""
    trunk = {name: array for name, array in arrays.items() if not name.startswith('head')}
    text = {'transformer.resblocks.0.ln_1.weight': np.ones(3), 'logit_scale': np.ones(())}
    return prefixed('visual.trunk.', trunk) | {'visual.head.proj.weight': arrays['head.weight']} | text


TIMM = {
    'linear_patches': ({}, lambda x: x | {'patch_embed.proj.weight': x['patch_embed.proj.weight'].reshape(32, -1)}),
    'gammas': (
        {'init_values': 0.1},
        lambda x: {re.sub(r'ls(\d)\.gamma', r'gamma_\1', name): array for name, array in x.items()},
    ),
    'norm_behind_the_pooling': ({}, lambda x: {re.sub('^norm', 'fc_norm', name): array for name, array in x.items()}),
    'open_clip': ({}, open_clip),
}


@pytest.mark.parametrize('name', TIMM)
def test_older_releases_of_timm(name: str):
    extra, older = TIMM[name]
    args = {**OURS, **extra}
    model = VisionTransformer(**args)
    variables = random_variables(model)
    if name == 'open_clip':
        variables['params']['classifier']['bias'] *= 0
    newest = vit_flax.to_torch(model, variables, source='timm')
    arrays = older(dict(newest))
    assert arrays.keys() != newest.keys() or arrays['patch_embed.proj.weight'].ndim == 2
    same(variables, vit_flax.from_torch(model, arrays, source='timm'))
    if name != 'norm_behind_the_pooling':  # which timm has dropped
        network = TimmVisionTransformer(**args).double()
        filtered = timm_filter()(tensors(arrays), network, adapt_layer_scale=True)
        same({key: value.numpy() for key, value in filtered.items()}, newest)


def test_chunks_of_dinov2_and_its_heads():
    model = VisionTransformer(**{**OURS, 'num_classes': 0}, init_values=1e-5)
    variables = random_variables(model)
    written = vit_flax.to_torch(model, variables, source='dinov2')
    chunked = {re.sub(r'^blocks\.', 'blocks.0.', name): array for name, array in written.items()}
    teacher = {'teacher': prefixed('backbone.', chunked) | {'dino_head.mlp.0.weight': np.ones((2, 2))}}
    assert recognised(prefixed('teacher/backbone.', chunked)) == 'dinov2 (DINOv2)'
    same(variables, vit_flax.from_torch(model, teacher, source='dinov2'))


def test_positions_of_the_class_token_are_folded_where_we_have_none():
    """As timm folds those of DINOv2 with registers; a file that keeps them is the same bits again."""
    args = {**OURS, 'num_classes': 0, 'reg_tokens': 3, 'init_values': 1e-5, 'mlp_ratio': 2.0}
    kept, folded = (VisionTransformer(**args, no_embed_class=no) for no in (False, True))
    config = imported('transformers.models.dinov2_with_registers').Dinov2WithRegistersConfig
    sizes = {**SMALL, 'num_attention_heads': 4, 'mlp_ratio': 2, 'num_register_tokens': 3}
    network = randomised(transformers('dinov2_with_registers').Dinov2WithRegistersModel(config(**sizes)))
    with torch.no_grad():
        want = class_token(network, nchw()).numpy()
    tables = []
    for model in (kept, folded):
        variables = vit_flax.from_torch(model, network.state_dict(), source='huggingface')
        assert relative_error(outputs(model, variables), want) <= 1e-9
        written = vit_flax.to_torch(model, variables, source='huggingface')
        same(variables, vit_flax.from_torch(model, written, source='huggingface'))
        tables.append(written['embeddings.position_embeddings'])
    original = network.state_dict()['embeddings.position_embeddings'].numpy()
    np.testing.assert_array_equal(tables[0], original)
    np.testing.assert_array_equal(tables[1], np.concatenate([0 * original[:, :1], original[:, 1:]], axis=1))


def test_configurations_that_are_not_ours():
    configuration = SOURCES['huggingface'].configuration
    with pytest.raises(ValueError, match=r"model_type='bert' is none of vit, deit"):
        configuration({'model_type': 'bert'})
    with pytest.raises(ValueError, match=r"hidden_act='relu' is none of gelu"):
        configuration({'model_type': 'vit', 'hidden_act': 'relu'})
    with pytest.raises(ValueError, match=r"model_type=\['vit'\] is none of"):
        configuration({'model_type': ['vit']})
    with pytest.raises(ValueError, match='the configuration does not tell the arguments: unsupported operand'):
        configuration({'model_type': 'vit', 'hidden_size': 'a'})
    with pytest.raises(ValueError, match='biases of keys, of queries or values alone'):
        configuration({'model_type': 'dinov3_vit', 'key_bias': True})
    with pytest.raises(ValueError, match="hidden_act='silu' should be 'gelu', which is built in"):
        configuration({'model_type': 'beit', 'hidden_act': 'silu'})
    assert configuration({'model_type': 'vit', 'patch_size': [4, 8]})[1]['patch_size'] == (4, 8)
    whole = {'model_type': 'siglip', 'vision_config': {'model_type': 'siglip_vision_model', 'num_attention_heads': 6}}
    assert configuration(whole)[1]['global_pool'] == 'map' and configuration(whole)[1]['num_heads'] == 6
    clip = {'model_type': 'clip', 'vision_config': {}, 'projection_dim': 9, 'architectures': ['CLIPModel']}
    assert configuration(clip)[1]['num_classes'] == 9
    narrow = vit_flax.to_torch(PLAIN, plain_variables(), source='torchvision')
    with pytest.raises(ValueError, match='number of attention heads of a width of 32: give num_heads'):
        SOURCES['torchvision'].configuration(narrow)
    with pytest.raises(ValueError, match=r'do not tell the sizes: conv_proj\.weight has shape \(3,\), not 4 axes'):
        SOURCES['torchvision'].configuration(narrow | {'conv_proj.weight': np.ones(3)})
    with pytest.raises(ValueError, match=r"shapes do not tell the arguments of VisionTransformer: 'encoder\.pos_emb"):
        SOURCES['torchvision'].configuration({key: x for key, x in narrow.items() if 'pos_emb' not in key})
