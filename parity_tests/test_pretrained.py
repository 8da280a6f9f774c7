"""Weights by name, fitted to other sizes, and the images that go with them, against timm's own loading."""

import json
import shutil
from functools import cache, partial

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from PIL import Image

from parity_tests.case import first_cases
from parity_tests.foreign import imported
from parity_tests.timm_side import timm
from vit_flax import create_model, from_pretrained, from_torch, preprocessing, to_torch
from vit_flax.blocks.module import example_inputs
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.positions import Resampling
from vit_flax.image_transform import Preprocessing, of_processor
from vit_flax.pretrained import FILES, open_checkpoint
from vit_flax.registry import sized
from vit_flax.weights.files import FileError, write_arrays
from vit_flax.weights.fit import fold_channels, resize_kernel
from vit_flax.weights.sources import SOURCES

NAME = 'test_vit'


@cache
def network(**kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm().create_model(NAME, **kwargs)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """As timm saves a network for the hub."""
    path = tmp_path_factory.mktemp('hub')
    timm()
    from timm.models import save_for_hf  # after torchvision's stand-in

    save_for_hf(network(), path, safe_serialization='both')
    return path


def output(model, images):
    with torch.no_grad():
        return model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def images(height, width, channels=3):
    return np.random.default_rng(0).normal(size=(2, height, width, channels)).astype(np.float32)


def test_a_folder_of_timm(folder):
    model, variables = from_pretrained(folder)
    assert model.img_size == (160, 160) and model.num_classes == 1000
    x = images(160, 160)
    np.testing.assert_allclose(model.apply(variables, x), output(network(), x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [
        (dict(image_size=(96, 144), in_chans=1), dict(img_size=(96, 144), in_chans=1)),
        pytest.param(dict(image_size=224), dict(img_size=224), marks=pytest.mark.exhaustive),
        pytest.param(dict(in_chans=4), dict(in_chans=4), marks=pytest.mark.exhaustive),
        (dict(patch_size=8, image_size=80, in_chans=7), dict(patch_size=8, img_size=80, in_chans=7)),
        pytest.param(dict(num_classes=0), dict(num_classes=0), marks=pytest.mark.exhaustive),
    ],
)
def test_other_sizes_as_timm_loads_them(folder, ours, theirs):
    model, variables = from_pretrained(folder, scan=True, **ours)
    expected = timm().create_model(
        NAME, pretrained=True, pretrained_cfg_overlay={'file': str(folder / FILES[0])}, **theirs
    )
    size = theirs.get('img_size', 160)
    x = images(*((size, size) if isinstance(size, int) else size), theirs.get('in_chans', 3))
    np.testing.assert_allclose(model.apply(variables, x), output(expected.eval(), x), rtol=1e-4, atol=1e-4)


def test_a_new_head(folder):
    model, variables = from_pretrained(folder, num_classes=5, key=jax.random.key(1), param_dtype='float16')
    _, whole = from_pretrained(folder, param_dtype='float16')
    head = variables['params'].pop('classifier')
    assert head['kernel'].shape == (64, 5) and 0 < np.std(head['kernel']) < 0.1
    del whole['params']['classifier']
    jax.tree.map(np.testing.assert_array_equal, variables, whole)
    _, again = from_pretrained(folder, num_classes=5, key=jax.random.key(1), param_dtype='float16')
    np.testing.assert_array_equal(again['params']['classifier']['kernel'], head['kernel'])
    assert model.num_classes == 5


@pytest.mark.parametrize('size', [(3, 4), (9, 5), (14, 11)])
@pytest.mark.parametrize(
    ('resampling', 'options'),
    [
        (SOURCES['timm'].resampling, dict(mode='bicubic', antialias=True)),
        (Resampling(), dict(mode='bicubic')),
        (Resampling('bilinear'), dict(mode='bilinear')),
        (Resampling('bilinear', antialias=True), dict(mode='bilinear', antialias=True)),
        (Resampling(align_corners=True), dict(mode='bicubic', align_corners=True)),
        (Resampling('bilinear', align_corners=True), dict(mode='bilinear', align_corners=True)),
        (Resampling(offset=0.1), dict(mode='bicubic', offset=0.1)),
    ],
)
def test_resampling_as_torch(size, resampling, options):
    old, options = (6, 8), dict(options)
    table = np.random.default_rng(0).normal(size=(1 + 48, 5))
    grid = torch.from_numpy(table[1:]).reshape(1, *old, 5).permute(0, 3, 1, 2)
    if offset := options.pop('offset', 0):
        how = {'scale_factor': tuple((new + offset) / before for new, before in zip(size, old, strict=True))}
    else:
        how = {'size': size}
    expected = torch.nn.functional.interpolate(grid, **how, **options)[0].permute(1, 2, 0).reshape(-1, 5).numpy()
    moved = PositionTable(old, 1).move(table, PositionTable(size, 1), resampling)
    np.testing.assert_allclose(moved, np.concatenate([table[:1], expected]), rtol=0, atol=1e-12)


@pytest.mark.parametrize('patch', [(8, 8), (12, 20), (16, 16), (32, 24)])
def test_patch_kernels_as_timm(patch):
    kernel = np.random.default_rng(0).normal(size=(16, 16, 3, 5)).astype(np.float32)
    expected = timm().layers.resample_patch_embed(torch.from_numpy(kernel).permute(3, 2, 0, 1), patch)
    expected = expected.permute(2, 3, 1, 0).numpy()
    np.testing.assert_allclose(resize_kernel(kernel, patch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 7])
def test_channels_as_timm(channels):
    kernel = np.random.default_rng(0).normal(size=(4, 4, 3, 5)).astype(np.float32)
    from timm.models._manipulate import adapt_input_conv

    expected = adapt_input_conv(channels, torch.from_numpy(kernel).permute(3, 2, 0, 1))
    np.testing.assert_allclose(fold_channels(kernel, channels), expected.permute(2, 3, 1, 0), rtol=1e-6, atol=1e-6)


PICTURES = [(211, 160, 'RGB'), (90, 300, 'L'), (64, 65, 'RGBA'), (500, 333, 'CMYK'), (224, 224, 'P'), (1, 7, 'RGB')]


@pytest.mark.parametrize('crop_mode', ['center', 'squash', 'border'])
@pytest.mark.parametrize('size', [(224, 224), (96, 130)])
@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear', 'nearest', 'lanczos'])
def test_images_as_timm_prepares_them(crop_mode, size, interpolation):
    timm()
    from timm.data import create_transform

    rng = np.random.default_rng(0)
    for i, (height, width, mode) in enumerate(PICTURES):
        array = rng.integers(0, 256, (height, width, 3), np.uint8)
        picture = Image.fromarray(array).convert(mode)
        options = dict(
            mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), interpolation=interpolation, crop_pct=(0.9, 1.0, 0.875)[i % 3]
        )
        expected = create_transform((3, *size), is_training=False, crop_mode=crop_mode, **options)(
            picture.convert('RGB')
        )
        found = Preprocessing(size, crop_mode=crop_mode, **options)(picture)
        assert found.dtype == np.float32 and found.shape == (*size, 3)
        # of the values before they are normalised
        np.testing.assert_allclose(
            found * options['std'], expected.permute(1, 2, 0).numpy() * options['std'], rtol=0, atol=1 / 255
        )


def test_images_of_a_checkpoint(folder):
    prepare = preprocessing(folder)
    cfg = network().pretrained_cfg
    assert prepare.size == (160, 160) and prepare.mean == cfg['mean'] and prepare.crop_pct == cfg['crop_pct']
    assert preprocessing(folder, image_size=(64, 96)).size == (64, 96)
    array = np.random.default_rng(0).integers(0, 256, (200, 170), np.uint8)
    np.testing.assert_array_equal(prepare(array), prepare(np.repeat(array[..., None], 3, axis=2)))
    with pytest.raises(ValueError, match=r'not \[3, 4, 5\] of uint8'):
        prepare(np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(ValueError, match=r'not \[3, 4, 3\] of float64'):
        prepare(np.zeros((3, 4, 3)))


@pytest.mark.parametrize(
    ('config', 'expected'),
    [
        (
            {'size': {'height': 384, 'width': 384}, 'resample': 2, 'image_mean': [0.5] * 3, 'image_std': [0.5] * 3},
            dict(crop_mode='squash', crop_pct=1.0, interpolation='bilinear', mean=(0.5,) * 3, std=(0.5,) * 3),
        ),
        (
            {
                'size': {'shortest_edge': 256},
                'crop_size': {'height': 224, 'width': 224},
                'do_center_crop': True,
                'resample': 3,
            },
            dict(crop_mode='center', crop_pct=0.875, interpolation='bicubic'),
        ),
        ({'size': 224, 'do_normalize': False}, dict(crop_mode='squash', crop_pct=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)),
    ],
)
def test_processors_of_hugging_face(config, expected):
    assert of_processor(config) == expected


def test_shards_and_single_files(folder, tmp_path):
    _, variables = from_pretrained(folder)
    arrays = {name: value.numpy() for name, value in network().state_dict().items()}
    names = sorted(arrays)
    parts = {'a.safetensors': names[:9], 'b.safetensors': names[9:]}
    for file, some in parts.items():
        write_arrays(tmp_path / file, {name: arrays[name] for name in some})
    index = {'weight_map': {name: file for file, some in parts.items() for name in some}}
    (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(index))
    shutil.copy(folder / 'config.json', tmp_path)
    same = partial(jax.tree.map, np.testing.assert_array_equal, variables)
    same(from_pretrained(tmp_path)[1])
    # a file by itself has no configuration
    alone = tmp_path / 'alone.npz'
    write_arrays(alone, arrays)
    same(from_pretrained(alone, model=NAME)[1])
    with pytest.raises(ValueError, match=f'name the network, model=..., such as {NAME}; or say .* source=.*dino'):
        from_pretrained(alone)
    said: list[str] = []
    write_arrays(tmp_path / 'wrapped.npz', {f'module.{name}': array for name, array in arrays.items()})
    same(from_pretrained(tmp_path / 'wrapped.npz', model=NAME, report=said.append)[1])
    assert said == [f"read {len(arrays)} arrays below 'module.'"]
    with pytest.raises(ValueError, match='no configuration says how its images'):
        preprocessing(alone)
    assert preprocessing(alone, model=f'{NAME}.r160_in1k').size == (160, 160)
    (tmp_path / 'b.safetensors').unlink()
    with pytest.raises(FileError, match='there is no such file'):
        from_pretrained(tmp_path)
    (tmp_path / 'model.safetensors.index.json').write_text('{"weight_map": {"x": "../a.safetensors"}}')
    with pytest.raises(FileError, match='no index of shards'):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('vit_base_patch16_224', {}, r'several weights, name one: vit_base_patch16_224\.'),
        ('vit_bse_patch16_224.augreg_in21k', {}, "did you mean 'vit_base_patch16_224.augreg_in21k'"),
        ('missing/folder/model.safetensors', {}, 'no such file or folder'),
        ('./me/vit.pth', {}, 'no such file or folder'),
        ('me/vit.npz', {}, 'no such file or folder'),
        ('', {}, 'holds no weights'),
        ('FOLDER', dict(model='vit_bass_patch16_224'), "model='vit_bass_patch16_224' is no network: did you mean"),
        ('FOLDER', dict(source='tim'), "source='tim' is unknown"),
        ('FOLDER', dict(resize_as='tim'), "resize_as='tim' is unknown"),
        ('FOLDER', dict(image_size=10), 'img_size=10 holds no patch'),
        ('FOLDER', dict(patch_size=0), 'patch_size'),
        ('FOLDER', dict(num_classes=-1), 'num_classes'),
        ('FOLDER', dict(depth=3), 'unexpected: blocks.3'),
        ('FOLDER', dict(colour=3), 'colour'),
    ],
)
def test_what_cannot_be(folder, name, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        from_pretrained(str(folder) if name == 'FOLDER' else name, **options)


@pytest.mark.parametrize(('name', 'millions'), [('cct_7_3x1_32', 3.76), ('cct_14_7x2_224', 22.36)])
def test_files_of_the_authors_of_cct(name, millions, tmp_path):
    """Names, shapes and numbers of parameters: those of the paper, rounded down."""
    from vit_torch_ref.models.cct import CCT

    _, size = sized(name)
    state = CCT(**size).state_dict()
    assert sum(value.numel() for value in state.values()) // 10_000 == round(100 * millions)
    draw = np.random.default_rng(0)
    arrays = {key: draw.standard_normal(value.shape, np.float32) for key, value in state.items()}
    write_arrays(tmp_path / f'{name}.pth', arrays)
    model, variables = from_pretrained(tmp_path / f'{name}.pth', model=name)
    again = to_torch(model, variables, source='vit_pytorch')
    jax.tree.map(np.testing.assert_array_equal, again, arrays)


def test_a_folder_of_hugging_face(tmp_path):
    """Outputs, positions at another size and the images of transformers itself."""
    vit = imported('transformers.models.vit.modeling_vit')
    config = vit.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=64, patch_size=16,
        num_labels=5, id2label={i: f'thing {i}' for i in range(5)},
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = vit.ViTForImageClassification(config).eval()
    torch.nn.init.normal_(theirs.vit.embeddings.position_embeddings)
    theirs.save_pretrained(tmp_path)
    processors = imported('transformers.models.vit.image_processing_pil_vit')
    processor = processors.ViTImageProcessorPil(size={'height': 64, 'width': 64}, image_mean=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path)
    found = open_checkpoint(tmp_path)
    assert found.class_names(5) == tuple(config.id2label.values())
    for size in (None, (96, 48), (48, 32)):
        model, variables = from_pretrained(tmp_path, image_size=size)
        x = images(*(size or (64, 64)))
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2), interpolate_pos_encoding=True).logits
        np.testing.assert_allclose(model.apply(variables, x), expected, rtol=1e-4, atol=1e-5)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8))
    expected = processor(picture, return_tensors='np')['pixel_values'][0].transpose(1, 2, 0)
    np.testing.assert_allclose(preprocessing(tmp_path)(picture), expected, rtol=0, atol=0.5 / 255 / 0.5)


def test_positions_of_torchvision(tmp_path):
    """Resampled as its `interpolate_embeddings`, which knows squares alone."""
    vision = imported('torchvision.models.vision_transformer')
    torch.manual_seed(0)
    size = dict(patch_size=16, num_layers=1, num_heads=2, hidden_dim=128, mlp_dim=40, num_classes=5)
    theirs = vision.VisionTransformer(image_size=64, **size).eval()
    torch.nn.init.normal_(theirs.heads.head.weight)
    torch.save(theirs.state_dict(), tmp_path / 'vit.pth')
    for length in (32, 112):
        model, variables = from_pretrained(tmp_path / 'vit.pth', image_size=length)
        larger = vision.VisionTransformer(image_size=length, **size).eval()
        larger.load_state_dict(vision.interpolate_embeddings(length, 16, theirs.state_dict()))
        x = images(length, length)
        np.testing.assert_allclose(model.apply(variables, x), output(larger, x), rtol=1e-4, atol=1e-5)


def test_positions_of_google(tmp_path):
    """Resampled as timm's reader of `.npz` does it."""
    args = dict(img_size=64, patch_size=16, embed_dim=128, depth=1, num_heads=2, mlp_ratio=0.5, num_classes=5)
    kind = timm().models.vision_transformer.VisionTransformer
    model = create_model('vision_transformer', **args)
    torch.manual_seed(0)
    state = {name: value.numpy() for name, value in kind(**args).state_dict().items()}
    variables = from_torch(model, state, source='timm')
    write_arrays(tmp_path / 'vit.npz', to_torch(model, variables, source='google'))
    for size in ((32, 96), (112, 80)):
        model, variables = from_pretrained(tmp_path / 'vit.npz', image_size=size)
        theirs = kind(**{**args, 'img_size': size}).eval()
        theirs.load_pretrained(str(tmp_path / 'vit.npz'))
        x = images(*size)
        np.testing.assert_allclose(model.apply(variables, x), output(theirs, x), rtol=1e-4, atol=1e-4)


READING = [case for case in first_cases() if case.flax_model().input_kernel]


@pytest.mark.parametrize('reading', READING, ids=lambda case: case.stem)
def test_the_kernel_that_reads_the_image(reading):
    """Of the parameters it alone changes with the number of channels, in its axis of these."""
    model = reading.flax_model()

    def shapes(model):
        variables = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(model))
        return {path: leaf.shape for path, leaf in flatten_dict(variables['params'], sep='/').items()}

    before, after = shapes(model), shapes(model.clone(in_chans=model.in_chans + 1))
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {model.input_kernel}
    (path,) = changed
    assert before[path][2] == model.in_chans and len(before[path]) == 4


@pytest.mark.parametrize('new', [(3, 5), (9, 6), (14, 20)])
def test_relative_positions_as_timm(new):
    """BEiT's tables, at distances that grow geometrically."""
    old, extra = (7, 7), 3
    sizes = [(2 * rows - 1, 2 * columns - 1) for rows, columns in (old, new)]
    table = np.random.default_rng(0).normal(size=(sizes[0][0] * sizes[0][1] + extra, 4)).astype(np.float32)
    shape = sizes[1][0] * sizes[1][1] + extra, 4
    expected = timm().layers.resize_rel_pos_bias_table(torch.from_numpy(table), new, shape)
    tables = [PositionTable(size, suffix=extra, offsets=True, two_sided=True) for size in sizes]
    moved = tables[0].move(table, tables[1], SOURCES['timm'].resampling)
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-5)
    bilinear = tables[0].move(table, tables[1], SOURCES['huggingface'].resampling)
    grid = torch.from_numpy(table[:-extra]).reshape(1, *sizes[0], 4).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=sizes[1], mode='bilinear')[0].permute(1, 2, 0).reshape(-1, 4)
    np.testing.assert_allclose(bilinear, np.concatenate([expected, table[-extra:]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('registers', [0, 4])
def test_dinov2_has_two_conventions(registers):
    model = create_model('vision_transformer', reg_tokens=registers, depth=1)
    how = SOURCES['dinov2'].resampling_of(model)
    assert how == (Resampling(antialias=True) if registers else Resampling(offset=0.1))
