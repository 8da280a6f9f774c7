"""`features` writes what the head is given, and the example fits other classifiers on it."""

import re
import runpy
import sys

import jax
import numpy as np
import pytest

from train.cli import main
from train.conftest import ROOT
from train.embeddings import embedder
from train.run import open_run
from vit_flax import create_model


@pytest.fixture(scope='module')
def stored(finished, tmp_path_factory):
    file = tmp_path_factory.mktemp('features') / 'both.npz'
    assert main(['features', str(finished), '--split=both', '--out', str(file)]) == 0
    return file


def test_the_head_makes_logits_of_them(finished, stored):
    run, found = open_run(str(finished), 'best'), np.load(stored)
    assert found['features'].shape == (1437 + 360, 16) and found['features'].dtype == np.float32
    assert found['classes'].tolist() == list('0123456789')
    records = [*run.config.data.records('train'), *run.config.data.records('val')]
    np.testing.assert_array_equal(found['labels'], [record['label'] for record in records])
    np.testing.assert_array_equal(found['split'], ['train'] * 1437 + ['val'] * 360)
    images = np.stack([run.config.augment.evaluate(record)['image'] for record in records[-20:]]) / 255
    head = run.variables['params']['mlp_head']
    logits = np.asarray(run.model.apply(run.variables, np.float32(images)))
    np.testing.assert_allclose(found['features'][-20:] @ head['kernel'] + head['bias'], logits, atol=1e-5)


def test_another_layer_and_fewer_images(finished, tmp_path, capsys):
    file = tmp_path / 'some.npz'
    args = ['features', str(finished), '--layer', 'transformer/block_0', '--limit=7', '--out', str(file)]
    assert main(args) == 0
    found = np.load(file)
    assert found['features'].shape == (7, 5, 16) and len(found['labels']) == 7
    assert '7x5x16 features of 7 images' in capsys.readouterr().out


@pytest.mark.parametrize(
    'args, message',
    [
        (['--layer', 'transformer/blok_0'], "--layer 'transformer/blok_0' is no submodule or tap of the model: did"),
        (['--limit=-1'], 'limit=-1'),
        (['--out', '/'], '--out / is a folder'),
    ],
)
def test_mistakes_are_one_line(finished, args, message, capsys):
    assert main(['features', str(finished), *args]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1


def test_scanned_blocks_have_their_images_first(finished):
    run = open_run(str(finished), 'best')
    model = run.model.clone(scan=True)
    images = jax.ShapeDtypeStruct((4, *run.facts.shape), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    embed = embedder(model, run.facts.shape, 'transformer/block/block')
    assert jax.eval_shape(embed, variables, images).shape == (4, 2, 5, 16)


def test_two_heads_are_joined():
    model = create_model('cross_vit', image_size=16, channels=1, num_classes=10, sm_dim=8, lg_dim=12, sm_patch_size=4,
                         lg_patch_size=8, sm_enc_depth=1, lg_enc_depth=1, cross_attn_depth=1, depth=1)  # fmt: skip
    images = jax.ShapeDtypeStruct((4, 16, 16, 1), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.eval_shape(embedder(model, (16, 16, 1)), variables, images).shape == (4, 20)


def test_the_example_fits_a_forest_and_neighbours(stored, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['classify.py', str(stored)])
    runpy.run_path(str(ROOT / 'examples' / 'features' / 'classify.py'), run_name='__main__')
    out = capsys.readouterr().out
    assert '1437 images to fit on, 360 held out, 16 features' in out
    accuracies = [float(part) for part in re.findall(r'^(?:random forest|5 nearest .*?): ([\d.]+)%', out, re.M)]
    # Ten times chance, from a network that has seen little more than a digit twice.
    assert len(accuracies) == 2 and min(accuracies) > 40
