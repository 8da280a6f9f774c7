"""Runs and commands that begin with published weights instead of a run."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from train.cli import main, parse
from train.errors import UserError
from train.init import inherit
from train.setup import set_up
from vit_flax import create_model, from_pretrained, preprocessing, to_torch
from vit_flax.weights.files import write_arrays

NAME, TAG = 'test_vit', 'r160_in1k'
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A folder as timm writes it."""
    folder = tmp_path_factory.mktemp('weights')
    model = create_model(NAME, depth=1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.example_input())
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: draw.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    write_arrays(folder / 'model.safetensors', to_torch(model, variables, source='timm'))
    images = {'input_size': [3, 160, 160], 'mean': MEAN, 'std': STD, 'interpolation': 'bicubic', 'crop_pct': 0.95}
    config = {'architecture': NAME, 'num_classes': 1000, 'model_args': {'depth': 1}, 'pretrained_cfg': images}
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Two classes of two photographs."""
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp('photos')
    for name, image in zip(('china', 'flower'), load_sample_images().images, strict=True):
        for split, part in (('train', image[:300]), ('val', image[100:])):
            (folder / split / name).mkdir(parents=True)
            Image.fromarray(part).save(folder / split / name / '1.png')
    return folder


def test_predict_with_published_weights(weights, photos, tmp_path, capsys):
    photo = photos / 'train' / 'flower' / '1.png'
    model, variables = from_pretrained(weights)
    logits = model.apply(variables, preprocessing(weights)(Image.open(photo))[None])[0]
    probabilities = jax.nn.softmax(logits)
    best = int(np.argmax(probabilities))
    assert main(['predict', str(weights), str(photo), '--out', str(tmp_path)]) == 0
    first = capsys.readouterr().out.splitlines()[1]
    assert first.startswith(' 1  ') and first.endswith(f'{100 * probabilities[best]:5.1f} % ')
    assert (tmp_path / '1.png').exists()
    config = json.loads((weights / 'config.json').read_text())
    named = tmp_path / 'named'
    named.mkdir()
    (named / 'model.safetensors').symlink_to(weights / 'model.safetensors')
    names = [f'thing {i}' for i in range(1000)]
    (named / 'config.json').write_text(json.dumps({**config, 'label_names': names}))
    assert main(['predict', str(named), str(photo), '--no-draw']) == 0
    assert f' 1  thing {best} ' in capsys.readouterr().out
    (named / 'config.json').unlink()
    assert main(['predict', str(named), str(photo), '--no-draw']) == 2
    assert 'name the network, model=...' in capsys.readouterr().err


def test_fine_tuning_of_published_weights(weights, photos):
    args = ['--init', str(weights), '--data.path', str(photos), '--batch-size', '8']
    config, _ = parse('finetune', args)
    assert config.model.name == NAME and config.model.args['depth'] == 1
    assert config.augment.image_size == 160
    assert config.augment.mean == tuple(MEAN) and config.augment.std == tuple(STD)
    setup = set_up(config)
    assert setup.scale.mean == tuple(MEAN) and setup.model.num_classes == 2
    inherited = inherit(config, setup)
    _, variables = from_pretrained(weights)
    there = flatten_dict(variables, sep='/')
    heads = {'params/classifier/kernel', 'params/classifier/bias'}
    assert there.keys() - heads == inherited.arrays.keys()
    for path, array in inherited.arrays.items():
        np.testing.assert_array_equal(array, there[path])
    assert inherited.lines[0] == f'begins with {len(inherited.arrays)} arrays of {weights}'

    # other sizes, as `from_pretrained` fits them
    sizes = ['--augment.image-size', '96', '--model.patch-size', '8', '--data.channels', '1', '--augment.mean', '0.5',
             '--augment.std', '0.5', '--model.scan']  # fmt: skip
    config, _ = parse('finetune', [*args, *sizes])
    inherited = inherit(config, set_up(config))
    _, variables = from_pretrained(weights, image_size=96, patch_size=8, in_chans=1, scan=True)
    there = flatten_dict(variables, sep='/')
    assert there.keys() - heads == inherited.arrays.keys()
    for path, array in inherited.arrays.items():
        np.testing.assert_allclose(array, there[path], rtol=1e-6, atol=1e-7)
    assert '  resized: pos_embed, from 10x10 to 12x12 places' in inherited.lines
    assert '  resized: patch_embed/kernel, from 16x16x3 to 8x8x1' in inherited.lines
    assert '--augment.mean 0.5 0.4 0.3' in inherited.lines[-1]


def test_fine_tuning_of_a_run(finished):
    config, _ = parse('finetune', ['--init', str(finished)])
    assert config.model.name == 'vit' and config.augment.image_size == 16
    assert config.out.startswith('runs/finetune-init=')


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ([], '--init is missing'),
        (['--init', 'nowhere'], "'nowhere' is no file"),
        (['--init', './nowhere/at-all'], 'there is no such file or folder'),
        (['--init', 'vit_small_patch16_224'], 'has several weights'),
        (['--init', 'FILE'], 'does not say of which network'),
    ],
)
def test_what_nothing_can_begin_with(weights, tmp_path, args, message):
    alone = tmp_path / 'alone.safetensors'
    alone.symlink_to(weights / 'model.safetensors')
    with pytest.raises(UserError, match=message):
        parse('finetune', [str(alone) if arg == 'FILE' else arg for arg in args])


def test_weights_of_another_network(weights, photos):
    config, _ = parse('digits', ['--init', str(weights)])
    with pytest.raises(UserError, match="is of 'test_vit', a VisionTransformer, and model\\.name='vit' a ViT"):
        inherit(config, set_up(config))
